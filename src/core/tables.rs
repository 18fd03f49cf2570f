//! The two machines as tables: what every state does on every input, as the next state, what the link is told, and actions. A
//! change of a cell is seen in the snapshots.

use std::fmt::Write;
use std::time::Duration;

use super::connection::{self, Connection, Probe, Suspended};
use super::forward::{self, Context, Eviction, Forward};
use super::properties::{occupant, policy};
use super::*;
use crate::clock::Moment;

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

fn failure() -> Failure {
    Failure::new(FailureKind::Network, "gone")
}

/// The name of a variant.
fn variant(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").chars().take_while(|letter| letter.is_alphanumeric()).collect()
}

/// What one state does on every input.
struct Row {
    text: String,
    ignored: Vec<String>,
}

impl Row {
    fn new(state: &str) -> Self {
        Self { text: format!("{state}\n"), ignored: Vec::new() }
    }

    fn add(
        &mut self,
        input: String,
        next: Option<String>,
        outcome: &impl std::fmt::Debug,
        actions: &[Action],
    ) {
        let outcome = Some(variant(outcome)).filter(|outcome| outcome != "Nothing");
        let actions = actions.iter().map(variant);
        let parts: Vec<_> = next.into_iter().chain(outcome).chain(actions).collect();
        if parts.is_empty() {
            self.ignored.push(input);
        } else {
            writeln!(self.text, "  {input:14} -> {}", parts.join(" + ")).unwrap();
        }
    }

    fn finish(mut self) -> String {
        writeln!(self.text, "  ignores {}", self.ignored.join(", ")).unwrap();
        self.text
    }
}

#[test]
fn connection_table() {
    use connection::{Input, State};

    let events = [
        ConnectionEvent::Ready,
        ConnectionEvent::NotReady(None),
        ConnectionEvent::LeaderEnded(failure()),
        ConnectionEvent::Ended(failure()),
        ConnectionEvent::Survived(failure()),
        ConnectionEvent::Stopped(7),
        ConnectionEvent::Continued,
        ConnectionEvent::ListenerLost,
        ConnectionEvent::Drained,
        ConnectionEvent::Answered,
        ConnectionEvent::Unreachable,
        ConnectionEvent::Reachable,
        ConnectionEvent::AddressRemoved([192, 0, 2, 1].into()),
    ];
    let orders = [Input::NetworkChanged, Input::Drain, Input::Terminate, Input::Kill, Input::DeadlinePassed];
    let inputs = events.into_iter().map(Input::Event).chain(orders);
    let inputs: Vec<_> = inputs.collect();
    let suspended = Some(Suspended { pid: 7, deadline: Some(at(15)) });
    let sent = Some(Probe::Sent { since: at(7), deadline: at(10) });
    let outdated = Some(Probe::Outdated { since: at(7), deadline: at(10) });
    let no_route = Some(Probe::NoRoute { since: at(7) });
    let states = [
        ("Starting", State::Starting { deadline: at(25) }, None, None),
        ("Starting, stopped", State::Starting { deadline: at(25) }, suspended, None),
        ("Late", State::Late { again: false }, None, None),
        ("Ready", State::Ready { since: at(5) }, None, None),
        ("Ready, stopped", State::Ready { since: at(5) }, suspended, None),
        ("Ready, probed", State::Ready { since: at(5) }, None, sent),
        ("Ready, probed before a change", State::Ready { since: at(5) }, None, outdated),
        ("Ready, without a route", State::Ready { since: at(5) }, None, no_route),
        ("Reopening", State::Reopening { deadline: at(15) }, None, None),
        ("Draining", State::Draining { deadline: at(15) }, None, None),
        ("Terminated", State::Terminated { deadline: at(15) }, None, None),
        ("Killed", State::Killed { deadline: Some(at(15)) }, None, None),
        ("Ended", State::Ended, None, None),
    ];
    let mut table = String::new();
    for (name, state, suspended, probe) in states {
        let mut row = Row::new(name);
        for input in &inputs {
            let mut connection =
                Connection { id: ConnectionId::default(), destination: 0, state, suspended, probe };
            let mut actions = Vec::new();
            let policy = Policy { drain: Duration::from_secs(30), ..policy(Kind::Ssh, OnConflict::Wait) };
            let outcome = connection.step(input.clone(), at(10), &policy, &mut actions);
            let input = match input {
                Input::Event(event) => variant(event),
                order => variant(order),
            };
            let stopped = if connection.suspended.is_some() { ", stopped" } else { "" };
            let probed = match connection.probe {
                Some(Probe::Sent { .. }) => ", probed",
                Some(Probe::Outdated { .. }) => ", probed before a change",
                Some(Probe::NoRoute { .. }) => ", without a route",
                None => "",
            };
            let next = format!("{}{stopped}{probed}", variant(&connection.state));
            let after = (connection.state, connection.suspended, connection.probe);
            let changes = after != (state, suspended, probe);
            row.add(input, changes.then_some(next), &outcome, &actions);
        }
        table.push_str(&row.finish());
    }
    insta::assert_snapshot!(table);
}

#[test]
fn forward_table() {
    use forward::{Input, State};

    let mut requests = Request::default();
    let request = requests.take_next();
    let (holders, on) = (vec![occupant(Some(4711))], ConnectionId::default().next());
    let events = [
        ForwardEvent::PortUnbound,
        ForwardEvent::PortHeld(holders.clone()),
        ForwardEvent::HoldersSpared(holders.clone(), failure()),
        ForwardEvent::PortUnusable(failure()),
        ForwardEvent::Opened,
        ForwardEvent::Refused(failure()),
        ForwardEvent::Closed,
        ForwardEvent::ListenerLost,
    ];
    let inputs = events.into_iter().map(|event| Input::Event(request, event)).chain([
        Input::Confirm(Some(on)),
        Input::Open(on),
        Input::Serve(on),
        Input::Unserve,
        Input::Close,
        Input::Release,
        Input::PolicyChanged,
        Input::DeadlinePassed,
    ]);
    let inputs: Vec<_> = inputs.collect();
    let waiting = |eviction| State::AwaitingPort { request, holders: holders.clone(), eviction };
    let deadline = at(20);
    let states = [
        ("Idle", State::Idle),
        ("AwaitingPort", State::AwaitingPort { request, holders: vec![], eviction: Eviction::None }),
        ("AwaitingPort, held", waiting(Eviction::None)),
        ("AwaitingPort, postponed", waiting(Eviction::Postponed { deadline })),
        ("AwaitingPort, SIGTERM", waiting(Eviction::Terminated { deadline })),
        ("AwaitingPort, SIGKILL", waiting(Eviction::Killed { deadline })),
        ("AwaitingPort, given up", waiting(Eviction::GivenUp)),
        ("Confirmed", State::Confirmed),
        ("Opening", State::Opening { request, on, deadline }),
        ("Withdrawing", State::Withdrawing { request, on, deadline }),
        ("Listening", State::Listening { request, on, since: at(5) }),
        ("Closing", State::Closing { request, on, deadline }),
        ("Backoff", State::Backoff { deadline }),
        ("Failed", State::Failed),
    ];
    let mut table = String::new();
    for on_conflict in [OnConflict::Wait, OnConflict::Kill] {
        writeln!(table, "on_conflict: {on_conflict:?}").unwrap();
        for (name, state) in &states {
            let mut row = Row::new(name);
            for input in &inputs {
                let mut forward = Forward::new(Slot(1), policy(Kind::Ssh, on_conflict));
                forward.state = state.clone();
                let (mut requests, mut actions) = (requests, Vec::new());
                let mut context = Context { now: at(10), requests: &mut requests, actions: &mut actions };
                let outcome = forward.step(input.clone(), &mut context);
                let input = match input {
                    Input::Event(_, event) => variant(event),
                    order => variant(order),
                };
                let next = match &forward.state {
                    State::AwaitingPort { holders, eviction: Eviction::None, .. } if holders.is_empty() => {
                        "AwaitingPort".to_owned()
                    }
                    State::AwaitingPort { eviction: Eviction::None, .. } => "AwaitingPort, held".to_owned(),
                    State::AwaitingPort { eviction, .. } => format!("AwaitingPort, {}", variant(eviction)),
                    state => variant(state),
                };
                row.add(input, (forward.state != *state).then_some(next), &outcome, &actions);
            }
            table.push_str(&row.finish());
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn an_answer_to_an_earlier_request_changes_nothing() {
    let mut requests = Request::default();
    let (earlier, request) = (requests.take_next(), requests.take_next());
    let mut forward = Forward::new(Slot(1), policy(Kind::Ssh, OnConflict::Kill));
    forward.state = forward::State::AwaitingPort { request, holders: vec![], eviction: Eviction::None };
    let (before, mut actions) = (forward.clone(), Vec::new());
    let mut context = Context { now: at(10), requests: &mut requests, actions: &mut actions };
    for event in [ForwardEvent::PortUnbound, ForwardEvent::PortHeld(vec![occupant(None)])] {
        let outcome = forward.step(forward::Input::Event(earlier, event), &mut context);
        assert_eq!((&outcome, &forward), (&forward::Outcome::Nothing, &before));
    }
    assert_eq!(actions, []);
}

#[test]
fn demand_table() {
    use demand::{Demand, Input};

    let mut requests = Request::default();
    let (earlier, request) = (requests.take_next(), requests.take_next());
    let inputs = [
        ("Reset", Input::Reset),
        ("Came", Input::Came),
        ("Left", Input::Left),
        ("Nobody", Input::Nobody(request)),
        ("EarlierNobody", Input::Nobody(earlier)),
        ("Disconnected", Input::Disconnected),
        ("PolicyChanged", Input::PolicyChanged),
        ("DeadlinePassed", Input::DeadlinePassed),
    ];
    let states = [
        Demand::Permanent,
        Demand::Clients,
        Demand::Lingering { since: at(5) },
        Demand::Asking { request },
        Demand::Asleep,
    ];
    let mut table = String::new();
    for on_demand in [Some(Duration::from_secs(600)), None] {
        writeln!(table, "on_demand: {on_demand:?}").unwrap();
        for state in states {
            let mut row = Row::new(&variant(&state));
            for (name, input) in inputs {
                let (mut next, mut requests, mut actions) = (state, requests, Vec::new());
                let mut context = Context { now: at(10), requests: &mut requests, actions: &mut actions };
                next.step(input, Slot(1), on_demand, &mut context);
                row.add(
                    name.to_owned(),
                    (next != state).then(|| variant(&next)),
                    &forward::Outcome::Nothing,
                    &actions,
                );
            }
            table.push_str(&row.finish());
        }
    }
    insta::assert_snapshot!(table);
}
