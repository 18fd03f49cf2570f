use super::*;

/// A listener on [::1]:13306, as Linux 6.18 reports it (little-endian).
#[rustfmt::skip]
const LISTENER: [u8; 112] = [
    0x70, 0x00, 0x00, 0x00, // length = 112
    0x14, 0x00,             // type = SOCK_DIAG_BY_FAMILY
    0x02, 0x00,             // flags = NLM_F_MULTI
    0x07, 0x00, 0x00, 0x00, // sequence = 7
    0x01, 0x00, 0x00, 0x00, // port id
    0x0a,                   // family = AF_INET6
    0x0a,                   // state = TCP_LISTEN
    0x00,                   // timer = none
    0x00,                   // retransmits
    0x33, 0xfa,             // source port = 13306
    0x00, 0x00,             // destination port = 0
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, // ::1
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // ::
    0x00, 0x00, 0x00, 0x00, // interface = none
    0x05, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // cookie = 0x1005
    0x00, 0x00, 0x00, 0x00, // expires
    0x00, 0x00, 0x00, 0x00, // receive queue
    0x80, 0x00, 0x00, 0x00, // send queue = backlog of 128
    0xe8, 0x03, 0x00, 0x00, // uid = 1000
    0x39, 0x30, 0x00, 0x00, // inode = 12345
    0x05, 0x00, 0x0b, 0x00, // attribute of 5 bytes, INET_DIAG_SKV6ONLY
    0x01, 0x00, 0x00, 0x00, // true, padding
    0x0c, 0x00, 0x15, 0x00, // attribute of 12 bytes, INET_DIAG_CGROUP_ID
    0x2a, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // cgroup = 42
    0x04, 0x00, 0x0e, 0x00, // attribute of 4 bytes, INET_DIAG_PAD
];

#[rustfmt::skip]
const DONE: [u8; 20] = [
    0x14, 0x00, 0x00, 0x00, // length = 20
    0x03, 0x00,             // type = NLMSG_DONE
    0x12, 0x00,             // flags = NLM_F_MULTI | NLM_F_DUMP_INTR
    0x07, 0x00, 0x00, 0x00, // sequence = 7
    0x01, 0x00, 0x00, 0x00, // port id
    0x00, 0x00, 0x00, 0x00, // code = 0
];

fn only_row(datagram: &[u8]) -> SocketRow {
    let mut all: Vec<_> = messages(datagram).collect();
    assert_eq!(all.len(), 1);
    match all.remove(0).unwrap().message {
        Message::Row(row) => row,
        other => panic!("not a row: {other:?}"),
    }
}

#[cfg(target_endian = "little")]
#[test]
fn a_listener_is_read_with_its_attributes() {
    assert_eq!(
        only_row(&LISTENER),
        SocketRow {
            local: "[::1]:13306".parse().unwrap(),
            remote: "[::]:0".parse().unwrap(),
            state: SocketState::Listening,
            inode: 12345,
            uid: 1000,
            cookie: 0x1005,
            v6only: true,
            interface: 0,
            cgroup: Some(42),
        }
    );
}

#[cfg(target_endian = "little")]
#[test]
fn time_wait_tells_what_is_left_of_it() {
    let mut bytes = LISTENER;
    bytes[17] = TCP_TIME_WAIT;
    bytes[18] = TIMER_TIME_WAIT;
    bytes[16 + EXPIRES.start..16 + EXPIRES.end].copy_from_slice(&55_924_u32.to_ne_bytes());
    assert_eq!(only_row(&bytes).state, SocketState::TimeWait(Duration::from_millis(55_924)));
    // The kernel keeps a socket in FIN_WAIT2 in the same way, and reports that state for it.
    bytes[17] = 5;
    assert_eq!(only_row(&bytes).state, SocketState::TimeWait(Duration::from_millis(55_924)));
}

#[cfg(target_endian = "little")]
#[test]
fn the_end_of_a_dump_tells_that_it_was_interrupted() {
    let datagram = [&LISTENER[..], &DONE].concat();
    let all: Vec<_> = messages(&datagram).map(Result::unwrap).collect();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].sequence, 7);
    assert!(!all[0].interrupted);
    assert!(all[1].interrupted);
    assert!(matches!(all[1].message, Message::Done(Ok(()))));
}

#[cfg(target_endian = "little")]
#[test]
fn a_refusal_carries_the_errno() {
    let mut bytes = DONE;
    bytes[4] = 2; // NLMSG_ERROR
    bytes[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
    let message = messages(&bytes).next().unwrap().unwrap().message;
    assert!(matches!(message, Message::Refused(error) if error.kind() == io::ErrorKind::NotFound));
    bytes[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
    assert!(matches!(messages(&bytes).next().unwrap().unwrap().message, Message::Refused(_)));
}

#[test]
fn a_truncated_message_is_malformed_at_every_length() {
    for length in 1..LISTENER.len() {
        assert!(messages(&LISTENER[..length]).all(|envelope| envelope.is_err()), "{length} bytes");
    }
}

#[cfg(target_endian = "little")]
#[test]
fn a_request_asks_for_one_port_and_keeps_states_that_the_crate_does_not_know() {
    let states = StateFlags::from_bits_retain(1 << 13);
    let request = Request::Dump { protocol: Protocol::Tcp, family: Family::V4, states, port: Some(13306) };
    let bytes = request.encode(9);
    assert_eq!(bytes.len(), 72);
    assert_eq!(bytes[6..8], (NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    assert_eq!(bytes[8..12], 9_u32.to_ne_bytes());
    assert_eq!(bytes[16..18], [AF_INET, IPPROTO_TCP]);
    assert_eq!(bytes[20..24], (1_u32 << 13).to_ne_bytes());
    assert_eq!(bytes[24..26], 13306_u16.to_be_bytes());
}

#[cfg(target_endian = "little")]
#[test]
fn a_listener_is_looked_up_and_not_dumped() {
    let bytes = Request::Listener("127.0.0.1:13306".parse().unwrap()).encode(9);
    assert_eq!(bytes[6..8], NLM_F_REQUEST.to_ne_bytes());
    assert_eq!(bytes[24..26], 13306_u16.to_be_bytes());
    assert_eq!(bytes[28..32], [127, 0, 0, 1]);
    assert_eq!(bytes[64..72], ANY_COOKIE);
}
