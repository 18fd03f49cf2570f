//! The whole configuration, checked: raw -> desired.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use super::desired::{Api, ApiTcp, Tunnel};
use super::diagnose::{Place, Problems, Refusal, quote};
use super::entry::{self, Checked, Context, Sketch};
use super::located::{Field, Located};
use super::node::{self, Node};
use super::{address, identity, overlap, paths, raw, read, ssh};

/// What a file says, as far as it can be read.
pub(super) struct Validated {
    /// The valid ones among the entries, each with its index, and yet to be compared with the problems that were reported.
    pub(super) tunnels: Vec<(usize, Tunnel)>,
    /// All entries, valid or not.
    pub(super) entries: Vec<Sketch>,
    /// The list of them; `None`: the file says nothing.
    pub(super) list: Option<Rc<Node>>,
    pub(super) ssh_standard: bool,
    pub(super) api: Api,
}

/// Reads `source`, the file `path`, and reports everything that is wrong with it. `None`: it is no configuration at all. `home` is
/// what `~/` stands for.
pub(super) fn validated(
    source: &str,
    path: &Path,
    home: Option<&Path>,
    problems: &Problems,
) -> Option<Validated> {
    let Some(tree) = node::parse(source, problems).ok()? else {
        let (tunnels, entries) = (Vec::new(), Vec::new());
        return Some(Validated { tunnels, entries, list: None, ssh_standard: false, api: Api::default() });
    };
    let config: raw::Config = read::read(&tree, problems)?;
    let tunnels = match &config.tunnels {
        Field::Absent => {
            let refusal = Refusal::new("missing key `tunnels`");
            problems.report(tree.place, refusal.hint(node::NO_TUNNELS));
            return None;
        }
        Field::Wrong => return None,
        Field::Right(tunnels) => &tunnels.value,
    };

    // Relative paths must stay what they are when the working directory changes.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = paths::Base { directory: absolute.parent().unwrap_or(Path::new("/")), home };
    let mode = config.direction_mode.value().copied().unwrap_or_default();
    let context = Context { directory, mode, problems };

    let api = api(config.api.value(), &context);
    let absent = raw::Defaults::default();
    let defaults = config.defaults.value().unwrap_or(&absent);
    // Options are checked where they are written, for a reserved one may be hidden by a tunnel's own.
    let entries = tunnels.iter().filter_map(Field::get);
    for ssh in entries.clone().map(|entry| &entry.value.ssh).chain([&defaults.ssh]).filter_map(Field::value) {
        ssh::check_options(ssh, problems);
    }
    for env in entries.clone().map(|entry| &entry.value.env).chain([&defaults.env]).filter_map(Field::value) {
        env.check(problems);
    }
    let merged =
        |field: &Field<raw::Tunnel>| field.get().map(|entry| entry.with(entry.value.merged(defaults, mode)));
    let merged: Vec<Option<Located<raw::Tunnel>>> = tunnels.iter().map(merged).collect();
    let check = |(index, entry): (usize, &Option<Located<raw::Tunnel>>)| {
        Some((index, entry::check(entry.as_ref()?, &context)?))
    };
    let (indices, mut checked): (Vec<usize>, Vec<Checked>) =
        merged.iter().enumerate().filter_map(check).unzip();
    report_duplicate_names(entries, problems);
    name_the_unnamed(&mut checked);
    report_names_that_mislead(&checked, problems);
    let places: Vec<(Place, Tunnel)> = checked.into_iter().map(|entry| (entry.port, entry.tunnel)).collect();
    overlap::check(&places, &api, problems);
    Some(Validated {
        tunnels: indices.into_iter().zip(places.into_iter().map(|(_, tunnel)| tunnel)).collect(),
        entries: merged.iter().map(|entry| Sketch::of(entry.as_ref().map(|entry| &entry.value))).collect(),
        list: tree.get("tunnels").cloned(),
        ssh_standard: mode == raw::DirectionMode::SshStandard,
        api,
    })
}

/// Characters of a name in the DNS.
const LONGEST_HOST: usize = 253;

fn report_duplicate_names<'r>(entries: impl Iterator<Item = &'r Located<raw::Tunnel>>, problems: &Problems) {
    let mut lines = HashMap::new();
    for name in entries.filter_map(|entry| entry.value.name.get()) {
        if let Some(line) = lines.insert(&name.value, name.place.line) {
            let refusal = Refusal::new(format!("duplicate name {}", quote(&name.value)));
            problems.report(
                name.place,
                refusal.hint(format!("line {line} has it already: rename one of the two")),
            );
        }
    }
}

fn name_the_unnamed(checked: &mut [Checked]) {
    let (unnamed, named): (Vec<_>, Vec<_>) = checked.iter_mut().partition(|entry| entry.name.is_none());
    let taken: HashSet<String> = named.into_iter().map(|entry| entry.tunnel.name.clone()).collect();
    let mut unnamed: Vec<(&str, &mut String)> =
        unnamed.into_iter().map(|entry| (entry.tunnel.hash.as_str(), &mut entry.tunnel.name)).collect();
    identity::make_unique(&mut unnamed, taken);
}

/// Reports names that could be mistaken for another tunnel's: those that differ only in white space, and those
/// that are a hash of another one, for a request by that hash would reach the wrong tunnel.
fn report_names_that_mislead(checked: &[Checked], problems: &Problems) {
    let mut looks: HashMap<String, (&str, usize)> = HashMap::new();
    for Checked { name: place, tunnel, .. } in checked {
        let Some(place) = place else { continue };
        let look = tunnel.name.split_whitespace().collect::<Vec<_>>().join(" ");
        match looks.get(&look) {
            // The very same name is reported as a duplicate.
            Some((first, line)) if *first != tunnel.name => {
                let refusal = Refusal::new(format!(
                    "{} differs from the name in line {line} in white space alone",
                    quote(&tunnel.name)
                ));
                problems.report(*place, refusal.hint("rename one of the two"));
            }
            Some(_) => {}
            None => drop(looks.insert(look, (&tunnel.name, place.line))),
        }
        let is_hash = identity::is_hash_prefix(&tunnel.name);
        let names = |other: &&Checked| {
            other.tunnel.hash != tunnel.hash
                && (other.tunnel.hash.starts_with(&tunnel.name) || other.tunnel.log_id == tunnel.name)
        };
        if let Some(other) = checked.iter().filter(|_| is_hash).find(names) {
            let refusal = Refusal::new(format!(
                "{} is also a hash of {}, so that a request by that hash would reach the wrong tunnel",
                quote(&tunnel.name),
                quote(&other.tunnel.name)
            ));
            problems.report(*place, refusal.hint("write another name"));
        }
    }
}

fn api(raw: Option<&raw::Api>, context: &Context<'_>) -> Api {
    let Some(raw) = raw else { return Api::default() };
    let socket = context.optional(&raw.socket, "socket", |text| {
        let path = paths::expand(text, context.directory)?;
        address::check_socket(&path)?;
        Ok(path)
    });
    let listen = context.optional(&raw.listen, "listen", |text| {
        text.parse().map_err(|_| {
            Refusal::new(format!("{} is not an address and a port", quote(text)))
                .hint("write it as \"127.0.0.1:8080\" or \"[::1]:8080\"")
        })
    });
    let token_file =
        context.optional(&raw.token_file, "token_file", |text| paths::expand(text, context.directory));
    let hosts = context.list(&raw.hosts, "hosts", |name| check_host(name));
    let cors_origins = context.list(&raw.cors_origins, "cors_origins", |origin| check_origin(origin));
    for (field, key) in [(&raw.hosts, "hosts"), (&raw.cors_origins, "cors_origins")] {
        if raw.listen.is_absent() {
            let hint = "add `listen:` with an address and a port, or remove it";
            context.forbid(field, key, "without `listen`: the unix socket has no such rules", hint);
        }
    }
    match (raw.listen.get(), raw.token_file.get()) {
        (Some(listen), None) if raw.token_file.is_absent() => {
            let refusal =
                Refusal::new("`listen` without `token_file`: anyone who reaches the port would be obeyed");
            context.report(
                listen.place,
                refusal.hint("add `token_file:` with the path of a file that holds a secret"),
            );
        }
        (None, Some(token_file)) if raw.listen.is_absent() => {
            let refusal = Refusal::new("`token_file` without `listen`: the unix socket asks for no token");
            context.report(
                token_file.place,
                refusal.hint("add `listen:` with an address and a port, or remove it"),
            );
        }
        _ => {}
    }
    let tcp = match (listen.flatten(), token_file.flatten()) {
        (Some(listen), Some(token_file)) => Some(ApiTcp { listen, token_file, hosts, cors_origins }),
        _ => None,
    };
    Api { socket: socket.flatten(), tcp }
}

fn check_host(name: &str) -> Result<(), Refusal> {
    let is_name = !name.is_empty()
        && name.len() <= LONGEST_HOST
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._".contains(letter));
    if is_name {
        return Ok(());
    }
    let hint = "write names such as `portward.example`, without a port; addresses and `localhost` need none";
    Err(Refusal::new(format!("{} is not the name of a host", quote(name))).hint(hint))
}

fn check_origin(origin: &str) -> Result<(), Refusal> {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    // What a browser sends: no path, no slash at the end, nothing that stands for several.
    let is_origin = host.is_some_and(|host| {
        !host.is_empty()
            && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter))
    });
    if is_origin {
        return Ok(());
    }
    let hint = "write what the browser shows of the page's address up to its first single slash, such as `http://panel.example:5000`";
    Err(Refusal::new(format!("{} is not the origin of a page", quote(origin))).hint(hint))
}
