//! `portward who`.

use std::fmt::Write;
use std::io;
use std::path::Path;

use comfy_table::{ContentArrangement, Table, presets};
use owo_colors::OwoColorize;

use super::arguments::WhoArguments;
use super::failure::Failed;
use super::output;
use super::place::Place;
use crate::port::advice::advice;
use crate::port::unix::{self, Judgement};
use crate::port::{Holder, Occupant, OccupantKind, Ports, Protocol, Question, SHORT_CONTAINER_ID};
use crate::text;

/// Beyond this many next steps, a person asks about one port.
const MOST_STEPS: usize = 10;

/// Prints who holds the ports; fails if nobody does.
pub(super) fn who(arguments: &WhoArguments) -> Result<(), Failed> {
    let ranges = arguments.places.iter().filter_map(|place| match place {
        Place::Ports(range) => Some(range.ports()),
        Place::Socket(_) => None,
    });
    let question = Question {
        ports: ranges.collect(),
        protocol: if arguments.udp { Protocol::Udp } else { Protocol::Tcp },
        connections: arguments.clients,
    };
    let mut occupants =
        if question.ports.is_empty() { Vec::new() } else { Ports::new()?.occupants(&question)? };
    for place in &arguments.places {
        if let Place::Socket(path) = place {
            occupants.extend(socket(path)?);
        }
    }
    let text = if arguments.json {
        text::json(&serde_json::to_string(&occupants).map_err(|error| Failed::NotDone(error.to_string()))?)
    } else {
        render(&occupants, &arguments.places, question.protocol, output::width())
    };
    output::print(&text)?;
    if occupants.is_empty() { Err(Failed::Said) } else { Ok(()) }
}

/// Who has the unix socket `path`.
fn socket(path: &Path) -> Result<Option<Occupant>, Failed> {
    let path = std::path::absolute(path).map_err(|error| Failed::Unclear(error.to_string()))?;
    // That a directory is missing is a matter of who is to listen there.
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    match unix::judge(&path) {
        Judgement::Held(holder) => Ok(Some(unix::occupant(&path, &holder))),
        Judgement::Unbound | Judgement::Stale(_) => Ok(None),
        Judgement::Unusable(why) => Err(Failed::Unclear(why)),
    }
}

/// A table, and below it what it does not show. Ends without a line end.
fn render(occupants: &[Occupant], asked: &[Place], protocol: Protocol, width: Option<u16>) -> String {
    let mut parts = Vec::new();
    if !occupants.is_empty() {
        parts.push(table(occupants, width));
    }
    if let Some(hidden) = hidden(occupants, asked, protocol) {
        parts.push(hidden);
    }
    let steps = next_steps(occupants, protocol);
    if !steps.is_empty() {
        parts.push(steps.join("\n"));
    }
    let is_free = |place: &&Place| !occupants.iter().any(|held| place.is_of(held));
    let free = asked.iter().filter(is_free);
    let nobody_holds = |place: &Place| match place {
        Place::Ports(range) => {
            let word = if range.length() == 1 { "port" } else { "ports" };
            format!("Nobody holds {} {word} {range}.", protocol.name())
        }
        Place::Socket(path) => {
            format!("Nobody listens on {}.", text::line(&path.to_string_lossy()))
        }
    };
    let free: Vec<String> = free.map(nobody_holds).collect();
    if !free.is_empty() {
        parts.push(free.join("\n"));
    }
    parts.join("\n\n")
}

fn table(occupants: &[Occupant], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(["ADDRESS", "KIND", "PID", "USER", "UNIT", "COMMAND"]);
    for occupant in occupants {
        table.add_row(row(occupant));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut lines = table.lines().map(|line| line.trim_end().to_owned());
    // Coloured afterwards: the table must count letters without colours.
    let header = lines.next().unwrap_or_default().bold().to_string();
    std::iter::once(header).chain(lines).collect::<Vec<_>>().join("\n")
}

fn row(occupant: &Occupant) -> [String; 6] {
    let text = |text: &str| text::line(text).into_owned();
    let nothing = || "-".to_owned();
    let mut address = occupant.path.clone().unwrap_or_else(|| occupant.address.to_string());
    if occupant.dual_stack {
        address.push_str(" and IPv4");
    }
    if let Some(peer) = occupant.peer {
        // Writing to a String cannot fail.
        let _ = write!(address, " with {peer}");
    }
    let kind = match occupant.time_wait_ms {
        Some(left) => format!("{}, {}s left", occupant.kind.name(), left.div_ceil(1000)),
        None => occupant.kind.name().to_owned(),
    };
    let Some(holder) = &occupant.holder else {
        return [address, kind, nothing(), nothing(), nothing(), nothing()];
    };
    let unknown = || if occupant.is_hidden() { "hidden".to_owned() } else { nothing() };
    [
        address,
        kind,
        pids(holder).unwrap_or_else(unknown),
        user(holder),
        place(holder).map_or_else(nothing, |place| text(&place)),
        holder.command.as_deref().map_or_else(unknown, text),
    ]
}

fn pids(holder: &Holder) -> Option<String> {
    let pids = holder.pid.iter().chain(&holder.others).map(u32::to_string).collect::<Vec<_>>();
    (!pids.is_empty()).then(|| pids.join(" "))
}

fn user(holder: &Holder) -> String {
    match &holder.user {
        Some(user) => format!("{} ({})", text::line(user), holder.uid),
        None => holder.uid.to_string(),
    }
}

/// The unit, the container, or else the cgroup of a process that is hidden.
fn place(holder: &Holder) -> Option<String> {
    let container = holder.container.as_ref().map(|id| id.get(..SHORT_CONTAINER_ID).unwrap_or(id));
    match (&holder.unit, container) {
        (Some(unit), Some(container)) => Some(format!("{unit}, container {container}")),
        (Some(unit), None) => Some(unit.clone()),
        (None, Some(container)) => Some(format!("container {container}")),
        // The root of all cgroups tells nothing.
        (None, None) => holder.cgroup.clone().filter(|path| holder.pid.is_none() && path != "/"),
    }
}

/// How each port is freed, told once for sockets that go together; nothing where that is a long list.
fn next_steps(occupants: &[Occupant], protocol: Protocol) -> Vec<String> {
    let mut steps = Vec::new();
    for occupant in occupants.iter().filter(|occupant| is_in_the_way(occupant, occupants)) {
        let place = match &occupant.path {
            Some(path) => path.clone(),
            None => format!("{} port {}", protocol.name(), occupant.port),
        };
        let step = format!("To free {place}: {}.", advice(occupant));
        let step = text::line(&step).into_owned();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    if steps.len() > MOST_STEPS { Vec::new() } else { steps }
}

/// The connections of a port that is served are no hindrance.
fn is_in_the_way(occupant: &Occupant, among: &[Occupant]) -> bool {
    let serves = |other: &Occupant| {
        (other.port, &other.path) == (occupant.port, &occupant.path)
            && matches!(other.kind, OccupantKind::Listener | OccupantKind::Bound)
    };
    serves(occupant) || !among.iter().any(serves)
}

/// What this user may not see, and how to see it.
fn hidden(occupants: &[Occupant], asked: &[Place], protocol: Protocol) -> Option<String> {
    let hidden = occupants.iter().filter(|occupant| occupant.is_hidden()).count();
    if hidden == 0 {
        return None;
    }
    let ports = asked.iter().map(Place::to_string).collect::<Vec<_>>().join(" ");
    let udp = if protocol == Protocol::Udp { " --udp" } else { "" };
    Some(format!(
        "The kernel hides the pid and the command of processes of other users ({hidden} of {} here): \
         `sudo portward who {ports}{udp}` shows them.",
        occupants.len()
    ))
}
