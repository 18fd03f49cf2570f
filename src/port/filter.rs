//! The classic BPF program that lets through the destroy events of some ports only. Pure.
//!
//! An event is a hint, so the program may let through too much: it distinguishes at most [`MAX_BLOCKS`] blocks of ports. Few ports
//! are blocks of their own; the more there are, the larger the blocks get. So the cost of a program does not grow with the
//! number of ports, and no number of ports is too large.

use std::collections::BTreeSet;

/// Two tables of them take 1,033 instructions of the 4,096 that the kernel takes (BPF_MAXINSNS).
const MAX_BLOCKS: usize = 256;
/// Where an event has the socket's own port, big-endian: 16 bytes of `nlmsghdr`, then 4 of `inet_diag_msg`;
const SOURCE_PORT: u32 = 20;
/// and the port that it is connected to. A listener has none.
const DESTINATION_PORT: u32 = 22;

const LOAD_HALF_WORD: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const WHOLE: u32 = u32::MAX;
const DROP: u32 = 0;

/// One instruction, as `struct sock_filter` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    /// What to do.
    pub(super) code: u16,
    /// Instructions to skip if the condition holds.
    pub(super) if_true: u8,
    /// Instructions to skip if it does not.
    pub(super) if_false: u8,
    /// The operand.
    pub(super) operand: u32,
}

impl Instruction {
    const fn new(code: u16, if_true: u8, if_false: u8, operand: u32) -> Self {
        Self { code, if_true, if_false, operand }
    }
}

/// Which sockets on a port are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Watched {
    /// Those without a peer: the end of a connection wakes no subscriber.
    Listeners,
    /// All.
    Everything,
}

/// The events that are let through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filter {
    /// Ports of which only events of sockets without a peer pass.
    listeners: Blocks,
    /// Ports of which all do.
    everything: Blocks,
}

impl Filter {
    /// Whether the events of `port` get through that `watched` is about.
    pub(super) fn lets_through(&self, port: u16, watched: Watched) -> bool {
        match watched {
            Watched::Listeners => self.listeners.contains(port),
            Watched::Everything => self.everything.contains(port) && self.listeners.contains(port),
        }
    }

    /// Lets these events of `port` through as well.
    pub(super) fn add(&mut self, port: u16, watched: Watched) {
        self.listeners.add(port);
        if watched == Watched::Everything {
            self.everything.add(port);
        }
    }

    /// The program for the kernel.
    pub(super) fn program(&self) -> Vec<Instruction> {
        let listeners = self.listeners.program();
        let mut program = vec![
            Instruction::new(LOAD_HALF_WORD, 0, 0, DESTINATION_PORT),
            Instruction::new(JUMP_IF_EQUAL, 1, 0, 0),
            // At most 2 * MAX_BLOCKS + 3.
            Instruction::new(JUMP, 0, 0, u32::try_from(listeners.len()).unwrap_or(DROP)),
        ];
        program.extend(listeners);
        program.extend(self.everything.program());
        program
    }
}

/// A set of ports, as blocks of two to the power of `shift` ports each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Blocks {
    shift: u32,
    blocks: BTreeSet<u16>,
}

impl Blocks {
    fn contains(&self, port: u16) -> bool {
        self.blocks.contains(&(port >> self.shift))
    }

    fn add(&mut self, port: u16) {
        self.blocks.insert(port >> self.shift);
        while self.blocks.len() > MAX_BLOCKS {
            self.shift += 1;
            self.blocks = self.blocks.iter().map(|block| block >> 1).collect();
        }
    }

    /// Instructions that return whether the event is of one of these ports.
    fn program(&self) -> Vec<Instruction> {
        let mut program = Vec::with_capacity(2 * self.blocks.len() + 3);
        program.push(Instruction::new(LOAD_HALF_WORD, 0, 0, SOURCE_PORT));
        program.push(Instruction::new(SHIFT_RIGHT, 0, 0, self.shift));
        // A conditional jump reaches 255 instructions at most, so each block has its own return.
        for block in &self.blocks {
            program.push(Instruction::new(JUMP_IF_EQUAL, 0, 1, u32::from(*block)));
            program.push(Instruction::new(RETURN, 0, 0, WHOLE));
        }
        program.push(Instruction::new(RETURN, 0, 0, DROP));
        program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with the instructions used here: how many bytes of `event` get through.
    fn run(program: &[Instruction], event: &[u8]) -> u32 {
        let mut accumulator = 0;
        let mut next = 0;
        loop {
            let instruction = program[next];
            next += 1;
            match instruction.code {
                LOAD_HALF_WORD => {
                    let at = instruction.operand as usize;
                    accumulator = u32::from(u16::from_be_bytes([event[at], event[at + 1]]));
                }
                SHIFT_RIGHT => accumulator >>= instruction.operand,
                JUMP => next += instruction.operand as usize,
                JUMP_IF_EQUAL if accumulator == instruction.operand => {
                    next += usize::from(instruction.if_true);
                }
                JUMP_IF_EQUAL => next += usize::from(instruction.if_false),
                RETURN => return instruction.operand,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn event_of(port: u16, peer: u16) -> Vec<u8> {
        let mut event = vec![0; 88];
        event[20..22].copy_from_slice(&port.to_be_bytes());
        event[22..24].copy_from_slice(&peer.to_be_bytes());
        event
    }

    /// Whether the end of a listener gets through, and whether that of a connection does.
    fn gets_through(filter: &Filter, port: u16) -> (bool, bool) {
        let program = filter.program();
        let passes = |peer| run(&program, &event_of(port, peer)) == WHOLE;
        (passes(0), passes(40_000))
    }

    fn watching(watched: Watched, ports: impl IntoIterator<Item = u16>) -> Filter {
        let mut filter = Filter::default();
        for port in ports {
            filter.add(port, watched);
        }
        filter
    }

    #[test]
    fn of_few_ports_exactly_these_get_through() {
        let (listeners, everything) = (BTreeSet::from([1, 22, 255, 13306]), BTreeSet::from([256, 22, 65535]));
        let mut filter = watching(Watched::Listeners, listeners.iter().copied());
        for port in &everything {
            filter.add(*port, Watched::Everything);
        }
        for port in 0..=u16::MAX {
            let all = everything.contains(&port);
            assert_eq!(gets_through(&filter, port), (all || listeners.contains(&port), all), "port {port}");
        }
    }

    #[test]
    fn no_port_watched_lets_nothing_through() {
        assert_eq!(gets_through(&Filter::default(), 0), (false, false));
    }

    #[test]
    fn the_largest_program_works_to_its_end() {
        let filter = watching(Watched::Everything, 1..=256);
        assert_eq!(filter.program().len(), 2 * (2 * MAX_BLOCKS + 3) + 3);
        assert_eq!(gets_through(&filter, 256), (true, true));
        assert_eq!(gets_through(&filter, 257), (false, false));
        assert_eq!(gets_through(&filter, 0), (false, false));
    }

    #[test]
    fn of_many_ports_all_get_through_and_not_many_more() {
        let filter = watching(Watched::Listeners, 10_000..14_000);
        assert!(filter.program().len() <= 2 * (2 * MAX_BLOCKS + 3));
        assert!((10_000..14_000).all(|port| gets_through(&filter, port) == (true, false)));
        let passes = |port: &u16| filter.lets_through(*port, Watched::Listeners);
        assert_eq!((0..=u16::MAX).filter(passes).count(), 4000);
        let every_port = watching(Watched::Everything, 0..=u16::MAX);
        assert_eq!(gets_through(&every_port, 0), (true, true));
        assert_eq!(gets_through(&every_port, u16::MAX), (true, true));
    }
}
