use super::*;
use proptest::prelude::*;

const MILLISECOND: i64 = 1_000_000;
/// CONFIG_HZ as distributions have it, with the length of a tick as the kernel reports it.
const TICKS: [i64; 4] = [10 * MILLISECOND, 4 * MILLISECOND, 3_333_333, MILLISECOND];

/// A clock whose jiffies were 0 `zero` nanoseconds before `origin`, and of which that is known exactly.
fn exact(tick: i64, zero: i64) -> Jiffies {
    Jiffies { origin: Instant::now(), tick, zero_at_least: -zero, zero_at_most: -zero }
}

#[test]
fn sixty_seconds_are_on_the_level_that_the_kernel_puts_them_on() {
    let top = |tick| levels(tick).last();
    // LVL_START(3) is 4032 ticks and LVL_START(4) is 32,256.
    assert_eq!(TICKS.map(top), [Some(3), Some(3), Some(3), Some(4)]);
}

#[test]
fn a_timer_fires_at_the_end_of_its_slot() {
    assert_eq!(slot_end(1000, 0), 1001);
    assert_eq!(slot_end(512, 3), 1024);
    assert_eq!(slot_end(511, 3), 512);
    assert_eq!(slot_end(1023, 3), 1024);
}

#[test]
fn time_wait_may_end_with_the_slot_of_each_level() {
    // 1000 jiffies have passed; 60 s are 15,000 more, so it is due at 16,000.
    let jiffies = exact(4 * MILLISECOND, 4000 * MILLISECOND);
    let ends = jiffies.ends(jiffies.origin, Duration::from_secs(60));
    let after: Vec<_> = ends.iter().map(|end| (*end - jiffies.origin).as_millis() / 4 + 1000).collect();
    assert_eq!(after, [16_001, 16_002, 16_008, 16_009, 16_064, 16_065, 16_384, 16_385]);
}

#[test]
fn a_time_wait_that_is_overdue_ends_with_the_slot_that_is_running() {
    let jiffies = exact(4 * MILLISECOND, 4 * 16_100 * MILLISECOND);
    let ends = jiffies.ends(jiffies.origin, Duration::ZERO);
    let last = *ends.last().unwrap() - jiffies.origin;
    assert_eq!(last.as_millis(), 4 * (16_385 - 16_100));
}

#[test]
fn a_tick_that_came_late_hides_no_end() {
    let exact = exact(4 * MILLISECOND, 4000 * MILLISECOND);
    let misled = Jiffies { zero_at_least: exact.zero_at_least + 3 * MILLISECOND, ..exact };
    assert_eq!(misled.uncertainty(), Duration::ZERO);
    let ends = |jiffies: &Jiffies| jiffies.ends(jiffies.origin, Duration::from_secs(60));
    assert!(ends(&exact).iter().all(|end| ends(&misled).contains(end)));
}

#[test]
fn the_real_clock_is_known_to_a_millisecond_after_some_readings() {
    let mut jiffies = Jiffies::read().unwrap();
    assert!(jiffies.uncertainty() <= Duration::from_millis(30), "{jiffies:?}");
    for _ in 0..1_000_000 {
        jiffies = jiffies.read_again();
        if jiffies.uncertainty() < Duration::from_millis(1) {
            return;
        }
    }
    panic!("{jiffies:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_never_excludes_what_is_so(
        tick in prop::sample::select(&TICKS[..]), zero in 0..20_000_000_000_000_000_i64, took in 0..100_000_i64
    ) {
        // The jiffies when times(2) looked, `took` after the reading began, and what it makes of them.
        let jiffies = (zero + took) / tick;
        let (least, most) = bounds(tick, jiffies * tick / USER_TICK, (0, took));
        prop_assert!(least <= -zero && -zero <= most, "{least} {} {most}", -zero);
        prop_assert!(most - least <= USER_TICK + 2 * tick + took);
    }

    #[test]
    fn the_true_end_is_among_the_ends_whatever_is_not_known(
        tick in prop::sample::select(&TICKS[..]),
        zero in 1_000_000_000..20_000_000_000_000_000_i64,
        below in 0..3 * MILLISECOND,
        above in 0..3 * MILLISECOND,
        left in 0..15_000_i64,
        // The row was read so long before the clock.
        before in 0..50 * MILLISECOND,
    ) {
        let known = Jiffies { zero_at_least: -zero - below, zero_at_most: -zero + above, ..exact(tick, zero) };
        let left = left.min(LONGEST / tick);
        let due = (zero - before) / tick + left;
        let told = Duration::from_millis(u64::try_from(left * tick / MILLISECOND).unwrap());
        let read = known.origin - Duration::from_nanos(before.try_into().unwrap());
        let ends = known.ends(read, told);
        for level in levels(tick) {
            let end = slot_end(due, level) * tick - zero;
            let is_it = |looked: &Instant| {
                let late = nanoseconds(*looked - known.origin) - end;
                (0..=above).contains(&late)
            };
            prop_assert!(end <= -before || ends.iter().any(is_it), "level {level} ends at {end}: {ends:?}");
        }
    }
}
