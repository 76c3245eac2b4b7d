//! Certificates that outlive the cache.

use super::*;
use crate::identity::shelf::MOST_KEPT;

/// Stands for the parent process: keeps bytes and knows nothing of them.
#[derive(Default)]
struct Memory(Mutex<HashMap<u32, Vec<u8>>>);

impl Memory {
    fn places(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Vault for Memory {
    fn put(&self, place: u32, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().insert(place, bytes.to_vec());
        Ok(())
    }

    fn clear(&self, place: u32) -> io::Result<()> {
        self.0
            .lock()
            .unwrap()
            .remove(&place)
            .map(drop)
            .ok_or_else(|| io::Error::other("nothing there"))
    }
}

impl World {
    /// The next process: the same CA and clock, another cache.
    fn next(self, memory: &Arc<Memory>) -> Self {
        let source: Arc<dyn CertificateSource> = self.script.clone();
        let vault: Arc<dyn Vault> = memory.clone();
        let kept = memory.0.lock().unwrap().clone();
        let certificates = Certificates::made(source, self.clock.clone(), Some(Shelf::new(vault)));
        for (place, bytes) in kept {
            certificates.shared.take_up(place, &bytes);
        }
        Self { certificates, ..self }
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_outlives_its_cache_and_is_renewed_when_it_is_due() {
    let memory = Arc::new(Memory::default());
    let world = World::new(&[], Answer::Good).next(&memory);
    let pod = world.certificates.want(&web());
    let before = world.get().await.unwrap();
    assert_eq!(memory.places(), 1);
    sleep(LIFE / 4).await;

    let world = world.next(&memory);
    world.then_always(Answer::Refuse);
    let _next_pod = world.certificates.want(&web());
    let after = world.get().await.unwrap();
    assert_eq!(after.serial(), before.serial());
    assert!(!Arc::ptr_eq(&after, &before));
    assert_eq!(world.times_asked(), 1, "the CA was not asked");
    world.certificates.keep_only_wanted();
    assert_eq!(world.certificates.list().len(), 1);
    drop(pod);

    world.then_always(Answer::Good);
    sleep(LIFE / 3).await;
    let renewed = world.get().await.unwrap();
    assert_ne!(renewed.serial(), before.serial());
    assert_eq!(memory.places(), 1, "the renewed one took its place");
    let world = world.next(&memory);
    assert_eq!(world.get().await.unwrap().serial(), renewed.serial());
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_or_over_is_kept_no_longer() {
    let memory = Arc::new(Memory::default());
    let world = World::new(&[], Answer::Good).next(&memory);
    let pods = [web(), db()].map(|id| world.certificates.want(&id));
    sleep(SECOND).await;
    assert_eq!(memory.places(), 2);
    drop(pods);
    assert_eq!(memory.places(), 0);

    let _pod = world.certificates.want(&web());
    sleep(SECOND).await;
    let world = world.next(&memory);
    assert_eq!(memory.places(), 1);
    world.certificates.keep_only_wanted();
    assert_eq!(memory.places(), 0, "its pod left while no worker lived");

    let _pod = world.certificates.want(&web());
    sleep(SECOND).await;
    assert_eq!(memory.places(), 1);
    *world.clock.ahead.lock().unwrap() = 2 * LIFE;
    let world = world.next(&memory);
    assert_eq!(memory.places(), 0);
    assert!(world.certificates.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_twice_or_is_no_certificate_is_cleared_away() {
    let memory = Arc::new(Memory::default());
    let world = World::new(&[], Answer::Good).next(&memory);
    let _pod = world.certificates.want(&web());
    sleep(SECOND).await;
    let bytes = memory.0.lock().unwrap().values().next().cloned().unwrap();
    for (place, bytes) in [(7, bytes), (8, b"nonsense".to_vec()), (9, Vec::new())] {
        memory.put(place, &bytes).unwrap();
    }
    let world = world.next(&memory);
    assert_eq!(memory.places(), 1);
    assert_eq!(world.certificates.list().len(), 1);
    world.get().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_more_are_kept_than_there_are_places_and_the_rest_work_all_the_same() {
    let memory = Arc::new(Memory::default());
    let world = World::new(&[], Answer::Good).next(&memory);
    let most = usize::try_from(MOST_KEPT).unwrap();
    let pods: Vec<_> = (0..most + 5)
        .map(|number| SpiffeId::new("cluster.local", "demo", &format!("pod-{number}")).unwrap())
        .map(|id| world.certificates.want(&id))
        .collect();
    sleep(60 * SECOND).await;
    assert_eq!(memory.places(), most);
    assert!(
        world
            .certificates
            .list()
            .iter()
            .all(|(_, held)| held.certificate.is_some())
    );
    drop(pods);
    assert_eq!(memory.places(), 0);
}
