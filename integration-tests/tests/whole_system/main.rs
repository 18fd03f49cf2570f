//! Twenty tunnels of all kinds, and whatever may happen to them, at random: in the end the system is as the file says.
//!
//! Steps are drawn from a seed, which is printed. At each quiet point all of this holds: every tunnel is in the state in which it
//! should be; what listens is what the tunnels need, and belongs to the process of its tunnel; every process is one that they need,
//! and none is a zombie; there were no more logins than there were causes. Now and then everything goes back to where it began, and
//! then the daemon has as many descriptors of each kind as it had.
//!
//!     PORTWARD_SEED=7 cargo test -p integration-tests --test whole_system -- --nocapture
//!     PORTWARD_MINUTES=30 cargo test -p integration-tests --test whole_system -- --nocapture

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod quiet;
mod sight;
mod tunnels;
mod world;

use std::time::Duration;

use integration_tests::{Choices, FarSide, Lab};
use tokio::time::Instant;

use crate::world::World;

/// For how many minutes to go on, in place of [`ROUNDS`].
const MINUTES: &str = "PORTWARD_MINUTES";
/// 25 to 70 s on a machine with two processors that others use as well.
const ROUNDS: usize = 12;
/// The most steps before a quiet point.
const STEPS: usize = 6;
/// After so many quiet points everything goes back to where it began.
const ROUNDS_FROM_HOME: usize = 4;

#[tokio::test]
async fn whatever_happens_the_system_comes_to_rest_as_the_file_says() {
    let mut choices = Choices::of_test();
    let minutes = std::env::var(MINUTES).ok().map(|minutes| minutes.parse::<u64>().unwrap());
    let end = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let lab = Lab::new();
    let far = FarSide::new(&lab).await;
    let mut world = World::start(&lab, &far).await;
    world.quiet().await;
    let home = world.descriptors();
    let mut round = 0;
    while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
        round += 1;
        for _ in 0..=choices.below(STEPS) {
            world.step(&mut choices).await;
        }
        world.quiet().await;
        if round % ROUNDS_FROM_HOME == 0 {
            world.go_home().await;
            world.quiet().await;
            world.has_descriptors(&home).await;
        }
    }
    println!("{round} rounds: {}", world.summary());
    let ended = world.daemon.take().unwrap().stop().await;
    assert!(ended.status.success(), "{:?}", ended.status);
}
