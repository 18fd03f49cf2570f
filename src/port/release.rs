//! Waiting until an endpoint is unbound: woken by the kernel, or by the end of a TIME_WAIT, of which the kernel says nothing.
//! After each event the kernel is asked, at once or, where events come all the time, as often as may cost something.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::identify::{Identification, Silent};
use super::pace::{self, Pace, Terms};
use super::time_wait::Jiffies;
use super::trial::Trial;
use super::{Endpoint, HeldBy, HoldKind, Occupant, PortError, Ports};

/// The jiffies are known well enough when the end of a TIME_WAIT is known to within this.
const PRECISION: Duration = Duration::from_micros(1200);
/// How often they are read for that, at most, and how long one reading follows another: not a divisor of 10 ms, which is
/// what a reading is rounded to.
const READINGS: u32 = 20;
const BETWEEN_READINGS: Duration = Duration::from_micros(2300);
/// How long TIME_WAIT outlasts what its row says, at most: the kernel's timers round up by as much as an eighth of the 60 s.
const TIME_WAIT_OVERTIME: Duration = Duration::from_millis(7500);

impl Ports {
    /// Resolves once all of `endpoints` are unbound, at once if they are. `on_held` is called with the holders whenever they
    /// change, as soon as it is known who they are. Woken by the kernel; dropping the future ends the subscription.
    pub async fn unbound(
        &self,
        endpoints: &[Endpoint],
        mut on_held: impl FnMut(&[HeldBy], Vec<Occupant>),
    ) -> Result<(), PortError> {
        if self.in_the_way(endpoints)?.is_empty() {
            return Ok(());
        }
        // What was released before the subscription is seen by the query after it.
        let mut subscription = self.watch(endpoints)?;
        let mut endpoints = endpoints.to_vec();
        let mut known = Vec::new();
        let mut identification = Identification::new();
        let mut silent = Silent::default();
        let mut pace = Pace::new(Terms::QUERIES);
        loop {
            let (obstacles, cost) = pace::timed(|| self.in_the_way(&endpoints));
            let (obstacles, read) = (obstacles?, Instant::now());
            if obstacles.is_empty() {
                return Ok(());
            }
            pace.spend(cost, read);
            // Identifying the holders may take trial binds, and those that work are events on the port: so that is done
            // for new ones only. For the same reason what is known to be held is asked about first. Else we, and another
            // portward that waits for the same port, would wake each other endlessly.
            let identities: Vec<_> = obstacles.iter().map(|obstacle| obstacle.held.identity()).collect();
            if identities != known {
                identification.start(self.proven(&obstacles));
                silent = Silent::default();
                known = identities;
            }
            let is_held =
                |endpoint: &Endpoint| obstacles.iter().any(|obstacle| obstacle.held.endpoint == *endpoint);
            endpoints.sort_by_key(|endpoint| !is_held(endpoint));
            let time_waits = obstacles.iter().filter_map(|obstacle| match obstacle.held.kind {
                HoldKind::TimeWait(left) => Some((left, obstacle.held.endpoint)),
                _ => None,
            });
            let mut time_wait_over = pin!(self.time_wait_over(read, time_waits.collect()));
            loop {
                tokio::select! {
                    () = subscription.changed() => break,
                    () = &mut time_wait_over => break,
                    () = silent.stirred() => break,
                    (held, identified) = identification.identified() => {
                        silent = Silent::of(&identified);
                        on_held(&held, identified);
                        // What went before that was listened for is seen by another query.
                        if silent.is_listening() {
                            break;
                        }
                    }
                }
            }
            let Some(rest) = pace.rest(Instant::now()) else { continue };
            let (muted, cost) = pace::timed(|| subscription.mute());
            pace.spend(cost, Instant::now());
            loop {
                tokio::select! {
                    () = sleep_until(rest) => break,
                    (held, identified) = identification.identified() => {
                        silent = Silent::of(&identified);
                        on_held(&held, identified);
                    }
                }
            }
            let ((), cost) = pace::timed(|| drop(muted));
            pace.spend(cost, Instant::now());
        }
    }

    /// Waits until an endpoint that TIME_WAIT holds may have become free; never resolves if there is none. `read` is when it was
    /// known how much was left.
    async fn time_wait_over(&self, read: Instant, time_waits: Vec<(Duration, Endpoint)>) {
        let Some(&(longest, last)) = time_waits.iter().max() else {
            return std::future::pending().await;
        };
        let mut ends: Vec<(Instant, Endpoint)> = match precise_jiffies().await {
            Some(jiffies) => time_waits
                .iter()
                .flat_map(|(left, endpoint)| {
                    jiffies.ends(read, *left).into_iter().map(|end| (end, *endpoint))
                })
                .collect(),
            None => time_waits.iter().map(|(left, endpoint)| (read + *left, *endpoint)).collect(),
        };
        ends.sort_unstable();
        ends.dedup();
        // On a kernel whose timers are not like this, each look is as far from the last as the timer is late.
        let due = ends.last().map_or(read + longest, |(end, _)| *end);
        let overtime = (0..).map(|power| Duration::from_millis(1 << power));
        let overtime = overtime.take_while(|late| *late < TIME_WAIT_OVERTIME).map(|late| (due + late, last));
        for (deadline, endpoint) in ends.into_iter().chain(overtime) {
            sleep_until(deadline).await;
            // Rows are read again only when there is something new in them.
            if !matches!(self.try_bind(&endpoint), Ok(Trial::InUse)) {
                return;
            }
        }
    }
}

/// Reads the jiffies until they are known well. Some ten readings do it.
async fn precise_jiffies() -> Option<Jiffies> {
    let mut jiffies = Jiffies::read()?;
    for _ in 0..READINGS {
        if jiffies.uncertainty() <= PRECISION {
            break;
        }
        sleep(BETWEEN_READINGS).await;
        jiffies = jiffies.read_again();
    }
    Some(jiffies)
}
