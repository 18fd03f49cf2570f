//! The tables that are printed.

use tokio::time::Instant;

use crate::client::Seen;
use crate::many::Cost;

/// The head of a table of what clients saw.
pub(crate) fn head(what: &str) {
    println!(
        "{what:<30}{:>7}{:>9}{:>9}{:>8}{:>8}{:>12}{:>12}",
        "times", "tries", "refused", "reset", "broken", "median ms", "longest ms"
    );
}

/// What the clients of one side saw: sums, and the waits.
pub(crate) fn line(name: &str, seen: &[Seen]) {
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(count).sum::<usize>();
    let waits = sorted(seen.iter().map(|seen| seen.wait.as_secs_f64() * 1e3));
    println!(
        "{name:<30}{:>7}{:>9}{:>9}{:>8}{:>8}{:>12.1}{:>12.1}",
        seen.len(),
        sum(|seen| seen.tried),
        sum(|seen| seen.refused),
        sum(|seen| seen.reset),
        sum(|seen| seen.broken),
        median(&waits),
        waits.last().copied().unwrap_or(f64::NAN),
    );
}

/// The head of the table of costs.
pub(crate) fn head_of_costs(tunnels: u16) {
    println!(
        "{:<30}{:>13}{:>13}{:>16}",
        format!("{tunnels} tunnels, medians"),
        "all up, ms",
        "PSS, KiB",
        "restart all, ms"
    );
}

/// The costs of one way to have them, or why there are none.
pub(crate) fn costs(name: &str, costs: Result<Vec<Cost>, String>) {
    let costs = match costs {
        Ok(costs) => costs,
        Err(reason) => return println!("{name:<30}  left out: {reason}"),
    };
    let of = |cost: fn(&Cost) -> f64| median(&sorted(costs.iter().map(cost)));
    let (up, kibibytes, restart) = (of(|cost| cost.up), of(|cost| cost.kibibytes), of(|cost| cost.restart));
    println!("{name:<30}{up:>13.0}{kibibytes:>13.0}{restart:>16.0}");
}

/// How long it took to measure.
pub(crate) fn took(begun: Instant) {
    println!("(measured in {:.0} s)\n", begun.elapsed().as_secs_f64());
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
