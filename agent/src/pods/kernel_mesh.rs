//! What the kernel is told of who belongs to the mesh, so that it leaves connects to all others alone.
//!
//! Whoever comes is added at once. Whoever goes may be taken for a member a while longer, which costs a redirection for
//! nothing; that is why all of it is written anew only now and then.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    mesh::{Snapshot, members::Came},
    redirect::{Maps, RedirectError},
};

/// How long the kernel may believe what it was told: several looks, so that one that is late matters not.
const BELIEF: Duration = Duration::from_secs(2);
/// How long those who have gone may be taken for members.
const LINGER: Duration = Duration::from_secs(10);
/// How long after a refusal of the kernel it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// With more newcomers than this all are written: that takes 10 ms at 200 000 addresses, this many 2 ms.
const MOST_NEWCOMERS: usize = 4096;

/// What the kernel knows of the mesh.
#[derive(Default)]
pub(super) struct KernelMesh {
    /// Every member of this one is known to the kernel.
    written: Option<Arc<Snapshot>>,
    /// Others may be too.
    stale: bool,
    /// When all was written last, or tried to be.
    rewritten: Option<Instant>,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The kernel knows what it should.
    Nothing,
    Add(Came),
    Rewrite,
    /// The kernel refused a short while ago.
    Wait,
}

impl KernelMesh {
    /// Tells the kernel what it does not know yet of `mesh`, and to believe that for a while. To be called whenever the
    /// mesh changes and several times in [`BELIEF`]. On an error, and until it succeeds again, the kernel redirects every
    /// connect.
    pub(super) fn follow(&mut self, maps: &Maps, mesh: &Arc<Snapshot>) -> Result<(), RedirectError> {
        let now = Instant::now();
        let step = self.step(mesh, now);
        let done = match &step {
            Step::Nothing | Step::Wait => Ok(()),
            Step::Add(came) => maps.add_to_mesh(&came.addresses, &came.ranges),
            Step::Rewrite => maps.set_mesh(mesh.member_addresses(), mesh.member_ranges()),
        };
        self.note(mesh, &step, done.is_ok(), now);
        let time = if self.written.is_some() { BELIEF } else { Duration::ZERO };
        done.and(maps.believe_mesh_for(time))
    }

    fn step(&self, mesh: &Arc<Snapshot>, now: Instant) -> Step {
        let since = self.rewritten.map(|rewritten| now.duration_since(rewritten));
        let Some(written) = &self.written else {
            return match since {
                Some(since) if since < RETRY => Step::Wait,
                _ => Step::Rewrite,
            };
        };
        if self.stale && since.is_none_or(|since| since >= LINGER) {
            return Step::Rewrite;
        }
        if Arc::ptr_eq(written, mesh) {
            return Step::Nothing;
        }
        mesh.members_since(written, MOST_NEWCOMERS)
            .map_or(Step::Rewrite, Step::Add)
    }

    fn note(&mut self, mesh: &Arc<Snapshot>, step: &Step, done: bool, now: Instant) {
        match step {
            Step::Nothing | Step::Wait => return,
            Step::Add(came) => self.stale |= came.some_went,
            Step::Rewrite => {
                self.stale = !done;
                self.rewritten = Some(now);
            }
        }
        self.written = done.then(|| Arc::clone(mesh));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Builder, Draft};

    fn mesh(addresses: &[[u8; 4]]) -> Arc<Snapshot> {
        let mut builder = Builder::new();
        for (at, address) in addresses.iter().enumerate() {
            let uid = format!("Kubernetes//Pod/demo/{at}");
            let mut draft = Draft::new(&uid, "demo", &at.to_string());
            draft.addresses = vec![(*address).into()];
            builder.add_workload(draft);
        }
        Arc::new(builder.build())
    }

    /// Takes the step as the kernel would, and says which it was.
    fn take(kernel: &mut KernelMesh, mesh: &Arc<Snapshot>, now: Instant) -> Step {
        let step = kernel.step(mesh, now);
        kernel.note(mesh, &step, true, now);
        step
    }

    #[test]
    fn newcomers_are_added_at_once_and_who_went_is_cleaned_up_later() {
        let (mut kernel, start) = (KernelMesh::default(), Instant::now());
        let one = mesh(&[[10, 0, 0, 1]]);
        assert_eq!(take(&mut kernel, &one, start), Step::Rewrite);
        assert_eq!(
            take(&mut kernel, &one, start + 2 * LINGER),
            Step::Nothing,
            "nothing went"
        );

        let two = mesh(&[[10, 0, 0, 1], [10, 0, 0, 2]]);
        let added = Came {
            addresses: vec![[10, 0, 0, 2].into()],
            ..Came::default()
        };
        assert_eq!(take(&mut kernel, &two, start), Step::Add(added));
        let other = mesh(&[[10, 0, 0, 1], [10, 0, 0, 3]]);
        let replaced = Came {
            addresses: vec![[10, 0, 0, 3].into()],
            some_went: true,
            ..Came::default()
        };
        assert_eq!(take(&mut kernel, &other, start), Step::Add(replaced));
        assert_eq!(take(&mut kernel, &other, start + LINGER / 2), Step::Nothing);
        assert_eq!(take(&mut kernel, &other, start + LINGER), Step::Rewrite);
        assert_eq!(take(&mut kernel, &other, start + 3 * LINGER), Step::Nothing);
    }

    #[test]
    fn many_newcomers_are_written_with_all_others() {
        let (mut kernel, now) = (KernelMesh::default(), Instant::now());
        take(&mut kernel, &mesh(&[]), now);
        let addresses: Vec<_> = (0..5000_u32).map(|n| (0x0a00_0000 + n).to_be_bytes()).collect();
        assert_eq!(take(&mut kernel, &mesh(&addresses), now), Step::Rewrite);
    }

    #[test]
    fn what_the_kernel_refused_is_tried_again_after_a_while() {
        let (mut kernel, now) = (KernelMesh::default(), Instant::now());
        let (one, two) = (mesh(&[[10, 0, 0, 1]]), mesh(&[[10, 0, 0, 1], [10, 0, 0, 2]]));
        take(&mut kernel, &one, now);
        let step = kernel.step(&two, now + LINGER);
        assert!(matches!(step, Step::Add(_)));
        kernel.note(&two, &step, false, now + LINGER);
        assert!(kernel.written.is_none(), "the kernel is told to believe nothing");
        let step = kernel.step(&two, now + LINGER);
        assert_eq!(step, Step::Rewrite);
        kernel.note(&two, &step, false, now + LINGER);
        assert_eq!(kernel.step(&two, now + LINGER), Step::Wait);
        assert_eq!(take(&mut kernel, &two, now + LINGER + RETRY), Step::Rewrite);
        assert_eq!(take(&mut kernel, &two, now + LINGER + RETRY), Step::Nothing);
    }
}
