//! The whole configuration, checked: raw -> desired.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::desired::{Api, ApiTcp, Desired, Tunnel};
use super::diagnose::{Place, Problems, Refusal, quote};
use super::entry::{self, Checked, Context};
use super::located::{Field, Located};
use super::{address, identity, node, overlap, paths, raw, read, ssh};

/// Reads `source`, the file `path`, and reports everything that is wrong with it. What it returns is to be used only if
/// nothing was reported. `home` is what `~/` stands for.
pub(super) fn desired(
    source: &str,
    path: &Path,
    home: Option<&Path>,
    problems: &Problems,
) -> Option<Desired> {
    let tree = node::parse(source, problems)?;
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
    let mut checked: Vec<Checked> = entries
        .clone()
        .filter_map(|entry| entry::check(&entry.with(entry.value.merged(defaults, mode)), &context))
        .collect();
    report_duplicate_names(entries, problems);
    name_the_unnamed(&mut checked);
    report_names_that_mislead(&checked, problems);
    let tunnels: Vec<(Place, Tunnel)> = checked.into_iter().map(|entry| (entry.port, entry.tunnel)).collect();
    overlap::check(&tunnels, &api, problems);
    Some(Desired { tunnels: tunnels.into_iter().map(|(_, tunnel)| tunnel).collect(), api })
}

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
        (Some(listen), Some(token_file)) => Some(ApiTcp { listen, token_file }),
        _ => None,
    };
    Api { socket: socket.flatten(), tcp }
}
