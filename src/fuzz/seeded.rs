//! Each target on damaged copies of its seeds: the same copies in every run, unless `PORTWARD_SEED` says otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;

use super::{TARGETS, Target};

/// Damaged copies for each target; `PORTWARD_FUZZ_INPUTS` sets another number.
const INPUTS: u32 = 5_000;

/// An input of some kilobytes that takes longer than this, without optimisation and on a busy machine, does not end.
const PATIENCE: Duration = Duration::from_secs(10);

/// One damage to an input.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    CutOff(Index),
    /// A number of two or four bytes: a length, a type or a port of the wires, in the byte order of the machine or of the network.
    Number(Index, u32, bool, bool),
    /// What follows a place, from another seed.
    Splice(Index, Index, Index),
}

/// What has a meaning to one of the parsers.
const PIECES: &[&str] = &[
    "\t",
    "\n",
    "\n\n",
    "\r",
    "  ",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "*a",
    "&a ",
    "!x ",
    "\"",
    "'",
    "#",
    "---\n",
    "|\n",
    ">",
    "%",
    "\0",
    "\u{feff}",
    "\u{2028}",
    "\u{85}",
    "\u{e4}",
    "\u{1b}[2J",
    "\u{202e}",
    "-",
    "0",
    "99999",
    "~",
    "<<: *a\n",
    "? ",
    "event: ",
    "data: ",
    "channel 1: open failed: ",
    " port ",
    "Permission denied (",
    ").",
    " line ",
    "https://",
];

fn damage() -> impl Strategy<Value = Damage> {
    // Lengths and types are small numbers: damage of that kind gets furthest.
    let byte = prop_oneof![any::<u8>(), 0..32u8];
    let number = prop_oneof![0..64u32, any::<u32>(), Just(u32::MAX), Just(0x8000_0001), Just(256 * 1024)];
    let piece = prop_oneof![
        select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..8)
    ];
    let at = any::<Index>;
    prop_oneof![
        (at(), byte).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), piece).prop_map(|(at, piece)| Damage::Insert(at, piece)),
        (at(), 1..40usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        (at(), 1..200usize).prop_map(|(at, length)| Damage::Repeat(at, length)),
        at().prop_map(Damage::CutOff),
        (at(), number, any::<bool>(), any::<bool>()).prop_map(|(at, number, is_long, is_of_network)| {
            Damage::Number(at, number, is_long, is_of_network)
        }),
        (at(), at(), at()).prop_map(|(at, other, from)| Damage::Splice(at, other, from)),
    ]
}

fn apply(input: &mut Vec<u8>, damage: &Damage, seeds: &[Vec<u8>]) {
    let length = input.len();
    let place = |at: &Index| at.index(length + 1);
    let end = |from: usize, count: usize| (from + count).min(length);
    match damage {
        Damage::Set(at, byte) => {
            if let Some(place) = input.get_mut(place(at)) {
                *place = *byte;
            }
        }
        Damage::Insert(at, piece) => drop(input.splice(place(at)..place(at), piece.iter().copied())),
        Damage::Remove(at, count) => drop(input.drain(place(at)..end(place(at), *count))),
        Damage::Repeat(at, count) => {
            let from = place(at);
            let again = input[from..end(from, *count)].to_vec();
            drop(input.splice(from..from, again));
        }
        Damage::CutOff(at) => input.truncate(place(at)),
        Damage::Number(at, number, is_long, is_of_network) => {
            let all = if *is_of_network { number.to_be_bytes() } else { number.to_ne_bytes() };
            let bytes = match (is_long, is_of_network) {
                (true, _) => &all[..],
                (false, true) => &all[2..],
                (false, false) => &all[..2],
            };
            // The fields of all wires are aligned.
            let from = place(at) / bytes.len() * bytes.len();
            for (place, byte) in input.iter_mut().skip(from).zip(bytes) {
                *place = *byte;
            }
        }
        Damage::Splice(at, other, from) => {
            let other = &seeds[other.index(seeds.len())];
            input.truncate(place(at));
            input.extend(&other[from.index(other.len() + 1)..]);
        }
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The committed seeds of a target; for the configuration, every file with one that the repository has.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut directories = vec![format!("fuzz/seeds/{target}")];
    if target == "config" {
        directories = ["config", "examples", "integration-tests/broken-configs"].map(str::to_owned).to_vec();
    }
    let mut files: Vec<_> = directories
        .iter()
        .flat_map(|directory| fs::read_dir(repository().join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| target != "config" || path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

fn survives_damage(target: &str) {
    let &(name, read): &(&str, Target) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "there are no seeds");
    for seed in &seeds {
        read(seed);
    }
    let mut key = [7; 32];
    if let Some(number) = variable("PORTWARD_SEED") {
        key[..8].copy_from_slice(&number.to_le_bytes());
    }
    let cases = variable("PORTWARD_FUZZ_INPUTS").map_or(INPUTS, |inputs| inputs.try_into().unwrap());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &key));
    let input = (any::<Index>(), prop::collection::vec(damage(), 1..8)).prop_map(|(seed, damages)| {
        let mut input = seed.get(&seeds).clone();
        for damage in &damages {
            apply(&mut input, damage, &seeds);
        }
        input
    });
    let result = runner.run(&input, |input| {
        let start = Instant::now();
        read(&input);
        prop_assert!(
            start.elapsed() < PATIENCE,
            "{:?}: {:?}",
            start.elapsed(),
            input.escape_ascii().to_string()
        );
        Ok(())
    });
    result.unwrap();
}

macro_rules! survive_damage {
    ($($target:ident)*) => {
        $(#[test] fn $target() { survives_damage(stringify!($target)); })*

        /// The lists of the targets agree: ours, cargo-fuzz's, the folders of seeds, and the tests above.
        #[test]
        fn every_target_is_known_to_cargo_fuzz_and_tested_here() {
            let ours: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!([$(stringify!($target).to_owned()),*].into_iter().collect::<BTreeSet<_>>(), ours);
            let manifest = fs::read_to_string(repository().join("fuzz/Cargo.toml")).unwrap();
            let binaries = manifest.split("[[bin]]\nname = \"").skip(1);
            let binaries = binaries.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
            assert_eq!(binaries.collect::<BTreeSet<_>>(), ours);
            for name in &ours {
                let source = fs::read_to_string(repository().join(format!("fuzz/fuzz_targets/{name}.rs"))).unwrap();
                assert!(source.contains(&format!("portward::fuzz::{name}(bytes)")), "{name}");
            }
        }
    };
}

survive_damage! { config events mux record rtnetlink server sock_diag stderr timeout unix_diag }
