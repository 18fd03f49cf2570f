//! Choices at random that can be repeated.

/// The variable that a test takes its seed from.
pub const SEED: &str = "PORTWARD_SEED";

/// A reproducible source of choices (xorshift).
#[derive(Debug)]
pub struct Choices(u64);

impl Choices {
    /// With this seed.
    pub fn new(seed: u64) -> Self {
        // The generator would stay at zero.
        Self(seed.max(1))
    }

    /// With the seed in the environment, or one of its own; prints it, so that a failure can be repeated.
    pub fn of_test() -> Self {
        let from_clock = || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
        let seed = std::env::var(SEED).map_or_else(|_| from_clock(), |seed| seed.parse().unwrap());
        println!("{SEED}={seed}");
        Self::new(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    /// Yes or no.
    pub fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
