//! Feeds damaged sock_diag messages to the wire code, which must never panic.
//!
//!     cargo run --release -p integration-tests --bin wire-fuzz [MESSAGES] [SEED]
//!
//! Ten million messages take some seconds. Each is a datagram that the kernel sent, with bytes changed, cut off, repeated or
//! put in front; a panic ends the program, and the seed that it prints first repeats it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use integration_tests::Choices;
use portward::port::wire::messages;

const MESSAGES: u64 = 10_000_000;
const SEED: u64 = 7;

/// A listener on `[::1]:13306`, a TIME_WAIT, the end of a dump and a refusal, as Linux 6.18 sends them.
const ORIGINAL: [u8; 276] = original();

const fn original() -> [u8; 276] {
    const LISTENER: [u8; 112] = [
        112, 0, 0, 0, 20, 0, 2, 0, 7, 0, 0, 0, 1, 0, 0, 0, 10, 10, 0, 0, 0x33, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 16, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 232, 3, 0, 0, 57, 48, 0, 0, 5, 0, 11, 0, 1, 0,
        0, 0, 12, 0, 21, 0, 42, 0, 0, 0, 0, 0, 0, 0, 4, 0, 14, 0,
    ];
    let mut all = [0; 276];
    let mut at = 0;
    while at < 112 {
        all[at] = LISTENER[at];
        all[112 + at] = LISTENER[at];
        at += 1;
    }
    // TIME_WAIT, with its timer.
    all[112 + 17] = 6;
    all[112 + 18] = 3;
    // NLMSG_DONE, NLMSG_ERROR.
    all[224] = 20;
    all[228] = 3;
    all[244] = 32;
    all[248] = 2;
    all[260] = 0xfe;
    all[261] = 0xff;
    all[262] = 0xff;
    all[263] = 0xff;
    all
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (count, seed) = (arguments.next().unwrap_or(MESSAGES), arguments.next().unwrap_or(SEED));
    println!("{count} messages, seed {seed}");
    let mut choices = Choices::new(seed);
    let (mut rows, mut malformed) = (0_u64, 0_u64);
    let mut datagram = Vec::with_capacity(2 * ORIGINAL.len());
    let mut read = 0;
    while read < count {
        damage(&mut choices, &mut datagram);
        for message in messages(&datagram) {
            read += 1;
            if message.is_ok() { rows += 1 } else { malformed += 1 }
        }
    }
    println!("no panic: {rows} were read, {malformed} refused");
}

fn byte(choices: &mut Choices) -> u8 {
    // Lengths and types are small numbers: damage of that kind gets furthest.
    let all = choices.below(256);
    u8::try_from(if choices.yes() { all } else { all % 32 }).expect("below 256")
}

fn damage(choices: &mut Choices, datagram: &mut Vec<u8>) {
    datagram.clear();
    datagram.extend(ORIGINAL);
    for _ in 0..=choices.below(8) {
        let at = choices.below(datagram.len());
        datagram[at] = byte(choices);
    }
    match choices.below(4) {
        0 => datagram.truncate(choices.below(ORIGINAL.len())),
        1 => datagram.extend_from_within(choices.below(ORIGINAL.len())..),
        2 => datagram.insert(0, byte(choices)),
        _ => {}
    }
}
