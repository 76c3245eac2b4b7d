//! A pod that asks without end until it is told to stop.

use std::thread;

use isthmus_tests::{Because as _, Failure, Result, fleet::Kubectl};

use crate::demo::{self, DEMO};

/// What became of its questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) times: u64,
    pub(crate) unanswered: u64,
    /// The longest that one question after the other stayed unanswered, whole seconds.
    pub(crate) longest_seconds: u64,
}

/// Asks from every pod of a Deployment in the mesh's namespace, from before `meanwhile` begins until after it has ended.
pub(crate) fn during<T>(
    kubectl: &Kubectl,
    pods: &[String],
    address: &str,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, Asked)> {
    let each = |pod: &String| asking(kubectl, pod, address);
    thread::scope(|scope| {
        let running: Vec<_> = pods.iter().map(|pod| scope.spawn(|| each(pod))).collect();
        let done = pods
            .iter()
            .try_for_each(|pod| begun(kubectl, pod))
            .and_then(|()| meanwhile());
        let mut stops = pods
            .iter()
            .map(|pod| kubectl.exec(DEMO, pod, &["/bin/busybox", "touch", "/stop"]));
        let stopped = stops.try_for_each(|stopped| stopped.map(drop));
        // A pod that is gone has stopped, and why it is gone is what matters.
        let done = done?;
        stopped?;
        let mut all = Asked {
            times: 0,
            unanswered: 0,
            longest_seconds: 0,
        };
        for thread in running {
            let one = thread.join().unwrap_or_else(|_| Err(Failure::new("asking panicked")))?;
            all.times += one.times;
            all.unanswered += one.unanswered;
            all.longest_seconds = all.longest_seconds.max(one.longest_seconds);
        }
        Ok((done, all))
    })
}

fn asking(kubectl: &Kubectl, pod: &str, address: &str) -> Result<Asked> {
    let ask = demo::ask(address).replace("timeout 5", "timeout 2");
    let script = format!(
        "b=/bin/busybox; n=0; bad=0; long=0; good=$($b date +%s); $b rm -f /stop /begun\n\
         while [ ! -e /stop ]; do\n\
         if {ask} > /dev/null 2>&1; then good=$($b date +%s); else bad=$((bad+1)); fi\n\
         n=$((n+1)); now=$($b date +%s); [ $((now-good)) -gt $long ] && long=$((now-good))\n\
         [ $n = 5 ] && $b touch /begun\n\
         done; echo $n $bad $long"
    );
    let said = kubectl.exec_patiently(DEMO, pod, &demo::sh(&script))?;
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        &[times, unanswered, longest_seconds] => Ok(Asked {
            times,
            unanswered,
            longest_seconds,
        }),
        _ => Err(Failure::new(format!("{pod} counted {said:?}"))),
    }
}

fn begun(kubectl: &Kubectl, pod: &str) -> Result {
    let looks = || kubectl.exec(DEMO, pod, &["/bin/busybox", "test", "-e", "/begun"]).ok();
    isthmus_tests::within(super::checks::SOON, "a pod has begun to ask", looks)
        .because(pod.to_owned())
        .map(drop)
}
