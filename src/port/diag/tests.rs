use super::*;
use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use netlink_packet_sock_diag::constants::{AF_INET, SOCK_DIAG_BY_FAMILY};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// What the channel does when it is read.
#[derive(Debug, Clone)]
enum Reply {
    /// Messages of one datagram: type, flags and payload; they answer the last request.
    Datagram(Vec<(u16, u16, Vec<u8>)>),
    /// The same, from another process.
    Foreign(Vec<(u16, u16, Vec<u8>)>),
    /// A datagram of which the buffer holds a part only.
    Truncated,
    Fails(i32),
}

#[derive(Debug, Default)]
struct Script {
    replies: VecDeque<Reply>,
    requests: Vec<Vec<u8>>,
    reopened: u32,
}

/// A channel that replies as the script has it.
#[derive(Debug, Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Channel for Scripted {
    fn reopen(&mut self) -> Result<(), PortError> {
        self.0.lock().unwrap().reopened += 1;
        Ok(())
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().requests.push(request.to_vec());
        Ok(())
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<(usize, u32)> {
        let mut script = self.0.lock().unwrap();
        let sequence = script.requests.last().unwrap()[8..12].to_vec();
        let (messages, sender) = match script.replies.pop_front().expect("one reply more") {
            Reply::Datagram(messages) => (messages, 0),
            Reply::Foreign(messages) => (messages, 4711),
            Reply::Truncated => {
                buffer.extend([0; 4]);
                return Ok((BUFFER_SIZE + 1, 0));
            }
            Reply::Fails(errno) => return Err(io::Error::from_raw_os_error(errno)),
        };
        for (kind, flags, payload) in messages {
            buffer.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
            buffer.extend(kind.to_ne_bytes());
            buffer.extend(flags.to_ne_bytes());
            buffer.extend(&sequence);
            buffer.extend([0; 4]);
            buffer.extend(payload);
        }
        Ok((buffer.len(), sender))
    }
}

fn a_row(state: u8, port: u16) -> (u16, u16, Vec<u8>) {
    let mut row = vec![0; 72];
    row[0] = AF_INET;
    row[1] = state;
    row[4..6].copy_from_slice(&port.to_be_bytes());
    (SOCK_DIAG_BY_FAMILY, 0, row)
}

fn done(flags: u16) -> (u16, u16, Vec<u8>) {
    (NLMSG_DONE, flags, vec![0; 4])
}

fn refusal(errno: i32) -> (u16, u16, Vec<u8>) {
    (NLMSG_ERROR, 0, [(-errno).to_ne_bytes().to_vec(), vec![0; 16]].concat())
}

fn scripted(replies: &[Reply]) -> (Diag, Scripted) {
    let channel = Scripted::default();
    channel.0.lock().unwrap().replies = replies.iter().cloned().collect();
    (Diag::over(channel.clone()), channel)
}

/// After `spoilt`, a whole answer with one listener. Whether that is what is returned, and nothing of the first answer.
fn is_asked_again_after(spoilt: &[Reply]) {
    let whole = Reply::Datagram(vec![a_row(TCP_LISTEN, 80), done(0)]);
    let replies = [spoilt, &[whole]].concat();
    let (mut diag, channel) = scripted(&replies);
    let rows = diag.listeners(Family::V4, None).unwrap();
    assert_eq!(rows.iter().map(|row| row.local.port()).collect::<Vec<_>>(), [80], "{spoilt:?}");
    let script = channel.0.lock().unwrap();
    assert_eq!((diag.queries(), script.reopened), (2, 1), "{spoilt:?}");
    assert_ne!(script.requests[0][8..12], script.requests[1][8..12], "each request has a number of its own");
}

#[test]
fn a_dump_that_was_interrupted_is_asked_for_again() {
    let spoilt = a_row(TCP_LISTEN, 1);
    is_asked_again_after(&[Reply::Datagram(vec![spoilt.clone(), done(NLM_F_DUMP_INTR)])]);
    let (kind, _, row) = spoilt.clone();
    is_asked_again_after(&[Reply::Datagram(vec![(kind, NLM_F_DUMP_INTR, row), done(0)])]);
    is_asked_again_after(&[Reply::Datagram(vec![spoilt]), Reply::Datagram(vec![done(NLM_F_DUMP_INTR)])]);
}

#[test]
fn a_dump_that_was_overrun_is_asked_for_again() {
    let spoilt = a_row(TCP_LISTEN, 1);
    is_asked_again_after(&[Reply::Fails(libc::ENOBUFS)]);
    is_asked_again_after(&[Reply::Datagram(vec![spoilt.clone()]), Reply::Fails(libc::ENOBUFS)]);
    is_asked_again_after(&[Reply::Datagram(vec![spoilt, (NLMSG_OVERRUN, 0, vec![])])]);
}

#[test]
fn a_dump_that_was_cut_off_or_damaged_is_asked_for_again() {
    let (kind, flags, row) = a_row(TCP_LISTEN, 1);
    is_asked_again_after(&[Reply::Truncated]);
    is_asked_again_after(&[Reply::Datagram(vec![(kind, flags, row[..40].to_vec())])]);
}

#[test]
fn a_dump_that_never_comes_whole_is_given_up() {
    let spoilt = Reply::Datagram(vec![done(NLM_F_DUMP_INTR)]);
    let (mut diag, _) = scripted(&vec![spoilt; ATTEMPTS as usize]);
    let error = diag.listeners(Family::V4, None).unwrap_err();
    assert!(matches!(error, PortError::Unsteady { attempts: ATTEMPTS }), "{error}");
}

#[test]
fn an_interrupted_call_goes_on_and_strangers_are_not_believed() {
    let (mut diag, _) = scripted(&[
        Reply::Fails(libc::EINTR),
        Reply::Foreign(vec![a_row(TCP_LISTEN, 1), done(0)]),
        Reply::Datagram(vec![a_row(TCP_LISTEN, 80), done(0)]),
    ]);
    let rows = diag.listeners(Family::V4, None).unwrap();
    assert_eq!(rows.iter().map(|row| row.local.port()).collect::<Vec<_>>(), [80]);
    assert_eq!(diag.queries(), 1);
}

#[test]
fn a_kernel_that_refuses_unknown_states_is_asked_for_the_known_ones() {
    let (mut diag, channel) = scripted(&[
        Reply::Datagram(vec![refusal(libc::EINVAL)]),
        Reply::Datagram(vec![a_row(1, 80), done(0)]),
    ]);
    assert_eq!(diag.everything(Protocol::Tcp, Family::V4, 80).unwrap().len(), 1);
    let states = |request: &[u8]| u32::from_ne_bytes(request[20..24].try_into().unwrap());
    let script = channel.0.lock().unwrap();
    assert_eq!(states(&script.requests[0]), ALL_STATES | BOUND_INACTIVE);
    assert_eq!(states(&script.requests[1]), ALL_STATES);
}

#[test]
fn bound_sockets_of_other_ports_are_left_out() {
    let (mut diag, _) = scripted(&[Reply::Datagram(vec![a_row(7, 80), a_row(7, 81), done(0)])]);
    assert_eq!(diag.everything(Protocol::Tcp, Family::V4, 80).unwrap().len(), 1);
}

#[test]
fn a_missing_module_is_told_from_a_listener_that_is_not_there() {
    let missing = [Reply::Datagram(vec![refusal(libc::ENOENT)])];
    let error = scripted(&missing).0.everything(Protocol::Udp, Family::V4, 80).unwrap_err();
    assert_eq!(error.to_string(), "the kernel cannot report UDP sockets: run `modprobe udp_diag`");
    assert_eq!(scripted(&missing).0.listener("127.0.0.1:80".parse().unwrap()).unwrap(), None);
}

#[test]
fn a_look_up_ends_with_its_only_row() {
    let (mut diag, _) = scripted(&[Reply::Datagram(vec![a_row(TCP_LISTEN, 80)])]);
    assert!(diag.listener("127.0.0.1:80".parse().unwrap()).unwrap().is_some());
    let (mut diag, _) = scripted(&[Reply::Datagram(vec![a_row(1, 80)])]);
    assert_eq!(diag.listener("127.0.0.1:80".parse().unwrap()).unwrap(), None, "a connection does not listen");
}
