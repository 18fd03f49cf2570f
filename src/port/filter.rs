//! The classic BPF program that lets through the destroy events of some ports only. Pure.
//!
//! An event is a hint, so the program may let through too much: it tells apart at most [`MAX_BLOCKS`] blocks of ports. Few ports
//! are blocks of their own; the more there are, the larger the blocks get. So the cost of a program does not grow with the
//! number of ports, and no number of ports is too large.

use std::collections::BTreeSet;

/// 514 instructions of the 4,096 that the kernel takes (BPF_MAXINSNS).
const MAX_BLOCKS: usize = 256;
/// Where an event has the socket's own port, big-endian: 16 bytes of `nlmsghdr`, then 4 of `inet_diag_msg`.
const SOURCE_PORT: u32 = 20;

const LOAD_HALF_WORD: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
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

/// The ports that are let through: blocks of two to the power of `shift` ports each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Filter {
    shift: u32,
    blocks: BTreeSet<u16>,
}

impl Filter {
    /// Whether the events of `port` get through.
    pub(super) fn lets_through(&self, port: u16) -> bool {
        self.blocks.contains(&self.block(port))
    }

    /// Lets the events of `port` through as well.
    pub(super) fn add(&mut self, port: u16) {
        self.blocks.insert(self.block(port));
        while self.blocks.len() > MAX_BLOCKS {
            self.shift += 1;
            self.blocks = self.blocks.iter().map(|block| block >> 1).collect();
        }
    }

    fn block(&self, port: u16) -> u16 {
        port >> self.shift
    }

    /// The program for the kernel.
    pub(super) fn program(&self) -> Vec<Instruction> {
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

impl FromIterator<u16> for Filter {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut filter = Self::default();
        ports.into_iter().for_each(|port| filter.add(port));
        filter
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
                JUMP_IF_EQUAL if accumulator == instruction.operand => {
                    next += usize::from(instruction.if_true);
                }
                JUMP_IF_EQUAL => next += usize::from(instruction.if_false),
                RETURN => return instruction.operand,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn event_of(port: u16) -> Vec<u8> {
        let mut event = vec![0; 88];
        event[20..22].copy_from_slice(&port.to_be_bytes());
        event
    }

    fn gets_through(filter: &Filter, port: u16) -> bool {
        run(&filter.program(), &event_of(port)) == WHOLE
    }

    #[test]
    fn of_few_ports_exactly_these_get_through() {
        let ports = BTreeSet::from([1, 22, 255, 256, 13306, 65535]);
        let filter: Filter = ports.iter().copied().collect();
        for port in 0..=u16::MAX {
            assert_eq!(gets_through(&filter, port), ports.contains(&port), "port {port}");
        }
    }

    #[test]
    fn no_port_watched_lets_nothing_through() {
        assert!(!gets_through(&Filter::default(), 0));
    }

    #[test]
    fn the_largest_program_works_to_its_end() {
        let filter: Filter = (1..=256).collect();
        assert_eq!(filter.program().len(), 2 * MAX_BLOCKS + 3);
        assert!(gets_through(&filter, 256) && !gets_through(&filter, 257) && !gets_through(&filter, 0));
    }

    #[test]
    fn of_many_ports_all_get_through_and_not_many_more() {
        let filter: Filter = (10_000..14_000).collect();
        assert!(filter.program().len() <= 2 * MAX_BLOCKS + 3);
        assert!((10_000..14_000).all(|port| filter.lets_through(port) && gets_through(&filter, port)));
        assert_eq!((0..=u16::MAX).filter(|port| filter.lets_through(*port)).count(), 4000);
        let every_port: Filter = (0..=u16::MAX).collect();
        assert!(gets_through(&every_port, 0) && gets_through(&every_port, u16::MAX));
    }
}
