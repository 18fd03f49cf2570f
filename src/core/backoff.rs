//! How long to wait after a failure.

use std::time::Duration;

use super::{Policy, Retry};

/// The wait after the `failures`th failure in a row (from 1); `None`: do not retry.
///
/// `min_delay` doubled at each failure, at most `max_delay`, of which a share between a half and the whole is taken, so
/// that tunnels which failed together do not come back together.
pub(super) fn delay(retry: Retry, failures: u32, policy: &Policy, seed: u64) -> Option<Duration> {
    let doublings = match retry {
        Retry::Never => return None,
        Retry::Prompt if failures <= 1 => return Some(Duration::ZERO),
        Retry::Prompt => failures - 2,
        Retry::Slow => failures.saturating_add(3),
    };
    let factor = 1u32.checked_shl(doublings).filter(|factor| *factor != 0).unwrap_or(u32::MAX);
    let whole = policy.min_delay.saturating_mul(factor).min(policy.max_delay);
    let share = mix(seed ^ u64::from(failures)) % 1025;
    Some(whole / 2 + (whole / 2).mul_f64(share_of(share)))
}

/// `thousandths` of 1024 as a fraction from 0 to 1.
fn share_of(thousandths: u64) -> f64 {
    f64::from(u32::try_from(thousandths).unwrap_or(1024)) / 1024.0
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): spreads near seeds far apart.
const fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::{Kind, OnConflict};

    fn policy(min_ms: u64, max_ms: u64) -> Policy {
        Policy {
            kind: Kind::Ssh,
            min_delay: Duration::from_millis(min_ms),
            max_delay: Duration::from_millis(max_ms),
            reset_after: Duration::from_secs(60),
            ready_timeout: Duration::from_secs(20),
            stop_grace: Duration::from_secs(5),
            on_conflict: OnConflict::Wait,
            standby: false,
            drain: Duration::ZERO,
            on_demand: None,
            destinations: 1,
        }
    }

    #[test]
    fn the_first_failure_is_retried_at_once_or_slowly_or_never() {
        assert_eq!(delay(Retry::Prompt, 1, &policy(250, 60_000), 7), Some(Duration::ZERO));
        assert_eq!(delay(Retry::Never, 1, &policy(250, 60_000), 7), None);
        assert!(delay(Retry::Slow, 1, &policy(250, 60_000), 7) >= Some(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn a_wait_lies_between_half_the_doubled_minimum_and_the_maximum(
            failures in 2u32.., min in 1u64..5_000, more in 0u64..100_000, seed: u64,
        ) {
            let policy = policy(min, min + more);
            let wait = delay(Retry::Prompt, failures, &policy, seed).unwrap();
            prop_assert!(wait <= policy.max_delay);
            prop_assert!(wait >= policy.min_delay / 2);
            let later = delay(Retry::Prompt, failures.saturating_add(2), &policy, seed).unwrap();
            prop_assert!(later >= wait.min(policy.max_delay / 2));
        }
    }
}
