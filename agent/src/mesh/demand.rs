//! Asking the source of the mesh for what it does not tell by itself: one that is asked on demand knows more than it has
//! told, so that what the mesh lacks may be in it all the same.
//!
//! Questions go to whoever reads the [`Asks`] as messages; the mesh itself stays readable without a lock.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{Mesh, Snapshot};

/// How long a connection waits for all answers it needs: as long as it waits for the mesh to know its own pod. An istiod
/// that is there answers within milliseconds; one that restarts is back within seconds.
pub const WAIT: Duration = Duration::from_secs(5);
/// Questions that wait to be read. One that finds no room is given up like one that is not answered.
const MOST_UNREAD: usize = 4096;
/// An answer may lead to further questions: a service to its waypoint, that to its gateway.
const MOST_ROUNDS: usize = 8;

/// A name that a decision depends on, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// `NETWORK/IP`, `NAMESPACE/HOSTNAME` or the uid of a workload.
    pub name: String,
    /// What is wanted.
    pub need: Need,
}

/// What is wanted of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The mesh has it: it is in use.
    Held,
    /// The mesh has this service: it is in use, and its endpoints must not grow old.
    Endpoints,
    /// The mesh lacks it: is there such a thing?
    Missing,
    /// The same of a pod that is served here, for as long as it is.
    Own,
}

/// A question.
#[derive(Debug)]
pub struct Ask {
    /// All names that a decision depends on.
    pub wants: Vec<Want>,
    /// Until when the answer is of use.
    pub by: Instant,
    /// Who waits until the mesh has what there is under the names that are missing; none when nobody does.
    pub answer: Option<oneshot::Sender<Result<(), Unanswered>>>,
}

/// There is no answer, so that nothing can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Nobody is there to be asked.
    #[error("istiod, which is asked for every destination on demand, is not reached")]
    Away,
    /// Who was asked says nothing.
    #[error("istiod, which is asked for every destination on demand, did not answer within {} s", WAIT.as_secs())]
    Silent,
}

/// Where questions go. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Demand(mpsc::Sender<Ask>);

/// Where they arrive.
#[derive(Debug)]
pub struct Asks(mpsc::Receiver<Ask>);

impl Demand {
    pub(super) fn new() -> (Self, Asks) {
        let (sender, receiver) = mpsc::channel(MOST_UNREAD);
        (Self(sender), Asks(receiver))
    }

    /// Says what is in use, or asks for it, without waiting. That this is lost when there is no room matters little: the
    /// next connection says the same.
    pub fn mention(&self, wants: Vec<Want>) {
        let ask = Ask {
            wants,
            by: Instant::now(),
            answer: None,
        };
        drop(self.0.try_send(ask));
    }

    async fn ask(&self, wants: Vec<Want>, by: Instant) -> Result<(), Unanswered> {
        let (answer, answered) = oneshot::channel();
        let answer = Some(answer);
        self.0
            .try_send(Ask { wants, by, answer })
            .map_err(|_| Unanswered::Silent)?;
        // Who reads the questions keeps the time as well, unless it is too busy for that.
        let late = by + Duration::from_secs(1);
        match timeout_at(late, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Unanswered::Away),
            Err(_) => Err(Unanswered::Silent),
        }
    }

    /// Asks anew for all of it: what the mesh has led nowhere. Whether there was an answer is for the next decision to find.
    pub async fn renew(&self, mut wants: Vec<Want>) {
        for want in &mut wants {
            want.need = Need::Missing;
        }
        let _found_by_the_next_decision = self.ask(wants, Instant::now() + WAIT).await;
    }

    /// Asks until the mesh has everything there is of what `wants` finds necessary.
    ///
    /// # Errors
    /// When that cannot be known in time.
    pub async fn learn(&self, mesh: &Mesh, wants: impl Fn(&Snapshot) -> Vec<Want>) -> Result<(), Unanswered> {
        let by = Instant::now() + WAIT;
        let mut asked: Vec<Want> = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let wants = wants(&mesh.current());
            let missing = wants.iter().filter(|want| want.is_missing());
            let new: Vec<Want> = missing.filter(|want| !asked.contains(want)).cloned().collect();
            if new.is_empty() {
                if asked.is_empty() {
                    self.mention(wants);
                }
                return Ok(());
            }
            asked.extend(new);
            self.ask(wants, by).await?;
        }
        Ok(())
    }
}

impl Asks {
    /// The next question. Nothing is lost when this is dropped before it resolves.
    pub async fn next(&mut self) -> Ask {
        match self.0.recv().await {
            Some(ask) => ask,
            None => std::future::pending().await,
        }
    }

    /// The next question, if there is one.
    pub fn next_now(&mut self) -> Option<Ask> {
        self.0.try_recv().ok()
    }
}

impl Want {
    /// Is it something the mesh lacks?
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self.need, Need::Missing | Need::Own)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::mesh::{Builder, Draft, Publisher};

    const NAME: &str = "/10.0.0.1";

    fn missing(name: &str) -> Want {
        Want {
            name: name.to_owned(),
            need: Need::Missing,
        }
    }

    fn there(mesh: &Snapshot) -> Vec<Want> {
        let known = mesh.workload_at("", IpAddr::from([10, 0, 0, 1])).is_some();
        let need = if known { Need::Held } else { Need::Missing };
        vec![Want {
            name: NAME.to_owned(),
            need,
        }]
    }

    fn publish(publisher: &Publisher) {
        let mut builder = Builder::new();
        builder.add_workload(Draft {
            addresses: vec![[10, 0, 0, 1].into()],
            ..Draft::new("a", "demo", "a")
        });
        publisher.publish(builder.build());
    }

    #[tokio::test]
    async fn a_decision_waits_for_what_the_mesh_lacks_and_says_what_it_uses() {
        let (publisher, mesh, mut asks) = Mesh::on_demand(Snapshot::empty());
        let demand = mesh.demand().unwrap().clone();
        let learning = demand.learn(&mesh, there);
        let answering = async {
            let ask = asks.next().await;
            assert_eq!(ask.wants, [missing(NAME)]);
            publish(&publisher);
            ask.answer.unwrap().send(Ok(())).unwrap();
        };
        let (learnt, ()) = tokio::join!(learning, answering);
        assert_eq!(learnt, Ok(()));
        assert_eq!(demand.learn(&mesh, there).await, Ok(()));
        let mention = asks.next().await;
        assert!(mention.answer.is_none() && mention.wants[0].need == Need::Held);
    }

    #[tokio::test]
    async fn what_is_not_there_is_asked_for_once_by_a_decision() {
        let (_publisher, mesh, mut asks) = Mesh::on_demand(Snapshot::empty());
        let demand = mesh.demand().unwrap().clone();
        let answering = async {
            asks.next().await.answer.unwrap().send(Ok(())).unwrap();
        };
        let (learnt, ()) = tokio::join!(demand.learn(&mesh, there), answering);
        assert_eq!(learnt, Ok(()));
        assert!(asks.next_now().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_nothing_is_learnt() {
        let (_publisher, mesh, mut asks) = Mesh::on_demand(Snapshot::empty());
        let demand = mesh.demand().unwrap().clone();
        let silence = async {
            let ask = asks.next().await;
            std::future::pending::<()>().await;
            drop(ask);
        };
        tokio::select! {
            learnt = demand.learn(&mesh, there) => assert_eq!(learnt, Err(Unanswered::Silent)),
            () = silence => {}
        }
        drop(asks);
        assert!(demand.learn(&mesh, there).await.is_err());
    }
}
