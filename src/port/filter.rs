//! The classic BPF program that lets through the destroy events of some ports only. Pure.

use std::collections::BTreeSet;

/// The kernel takes at most 4,096 instructions (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;
/// Each port takes two instructions, load and final drop one each.
pub(super) const MAX_PORTS: usize = (MAX_INSTRUCTIONS - 2) / 2;
/// Where an event has the socket's own port, big-endian: 16 bytes of `nlmsghdr`, then 4 of `inet_diag_msg`.
const SOURCE_PORT: u32 = 20;

const LOAD_HALF_WORD: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
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

/// The program for `ports`; `None` when there are more than [`MAX_PORTS`], and everything must be let through.
pub(super) fn program(ports: &BTreeSet<u16>) -> Option<Vec<Instruction>> {
    if ports.len() > MAX_PORTS {
        return None;
    }
    let mut program = Vec::with_capacity(2 * ports.len() + 2);
    program.push(Instruction::new(LOAD_HALF_WORD, 0, 0, SOURCE_PORT));
    // A conditional jump reaches 255 instructions at most, so each port has its own return.
    for port in ports {
        program.push(Instruction::new(JUMP_IF_EQUAL, 0, 1, u32::from(*port)));
        program.push(Instruction::new(RETURN, 0, 0, WHOLE));
    }
    program.push(Instruction::new(RETURN, 0, 0, DROP));
    Some(program)
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

    #[test]
    fn exactly_the_watched_ports_get_through() {
        let ports = BTreeSet::from([1, 22, 255, 256, 13306, 65535]);
        let program = program(&ports).unwrap();
        for port in 0..=u16::MAX {
            let expected = if ports.contains(&port) { WHOLE } else { DROP };
            assert_eq!(run(&program, &event_of(port)), expected, "port {port}");
        }
    }

    #[test]
    fn no_port_watched_lets_nothing_through() {
        let program = program(&BTreeSet::new()).unwrap();
        assert_eq!(run(&program, &event_of(0)), DROP);
    }

    #[test]
    fn the_largest_program_fits_and_works_to_its_end() {
        let ports: BTreeSet<u16> = (1..).take(MAX_PORTS).collect();
        let program = program(&ports).unwrap();
        assert!(program.len() <= MAX_INSTRUCTIONS);
        assert_eq!(run(&program, &event_of(2047)), WHOLE);
        assert_eq!(run(&program, &event_of(2048)), DROP);
    }

    #[test]
    fn more_ports_than_fit_have_no_program() {
        let ports: BTreeSet<u16> = (1..).take(MAX_PORTS + 1).collect();
        assert_eq!(program(&ports), None);
    }
}
