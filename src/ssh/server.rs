//! Asks the server of a master about the ports that it listens on for us: which process of the server listens, where, who else has
//! the port, and whether an earlier connection of ours has left it behind.
//!
//! The question is a session: a constant script for sh(1), which the account's shell is told to execute. In it stand numbers only.
//! The answer is a stranger's text: bounded, read strictly, and believed no further than that it is shown. What a server could win
//! by a lie is that processes of its own are ended, by its own account.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::forward::{Master, MasterError};
use crate::text;

/// The longest answer that is read, in bytes. Each listener takes some 80.
const LONGEST_ANSWER: u64 = 64 * 1024;

/// How long an answer may take: 0.1 s measured where a process was ended, and 1 s where it has to be killed. The request to listen,
/// which may wait for up to three of them, has 10 s.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// Bytes of a name that are kept.
const LONGEST_NAME: usize = 64;

/// The first line of an answer. What comes before it was said by the account's shell, at its start.
const FIRST_LINE: &str = "portward-answer 1";
/// The last one: without it something is missing.
const LAST_LINE: &str = "end";

/// What the server runs. `$1` is `where` or `who`, `$2` the ports in hexadecimal with `|` between them, and each three that follow
/// are a process that may be ended: boot, pid and start time.
///
/// The account's shell sees it between single quotes, so that it has none itself; nor has it a `!`, a backslash or a line's end,
/// which csh and fish would read there.
///
/// - `look PID` reads state and start time (fields 3 and 22 of /proc/PID/stat) behind the name, which may have blanks and parentheses.
/// - `holds PID`: whether the process has one of the listeners. A process of sshd shows its descriptors to root only. Where they are
///   hidden, the listener must belong to this account, as those that sshd opens for it do.
/// - `gone PID` waits for the end of a process, for half a second at most: a shell can wait for its own children only.
///
/// Between the last look at a process and the signal there is no fork and no wait.
const SCRIPT: &str = "\
w=$1; p=$2; shift 2; \
look() { z=; n=; read -r s <\"/proc/$1/stat\" || return 1; c=${s%\")\"*}; c=${c#*\"(\"}; set -- ${s##*\")\"}; z=$1; n=${20}; }; \
is() { look \"$1\" || return 1; case $z in Z|X) return 1;; esac; case $c in sshd*) [ \"$n\" = \"$2\" ];; *) return 1;; esac; }; \
all() { grep -hE \"^ *[0-9]+: [0-9A-F]+:($p) [0-9A-F]+:0000 0A \" /proc/net/tcp /proc/net/tcp6 | head -n 512; }; \
holds() { f=$(ls -l \"/proc/$1/fd\") || f=; all | ( while read -r x a x x x x x u x o x; do \
if [ \"$f\" ]; then case $f in *\"socket:[$o]\"*) exit 0;; esac; elif [ \"$u\" = \"$m\" ]; then exit 0; fi; done; exit 1 ); }; \
gone() { k=25; while is \"$1\" \"$2\"; do k=$((k-1)); [ $k -gt 0 ] || return 1; sleep 0.02 || sleep 1; done; }; \
echo portward-answer 1; \
read -r b </proc/sys/kernel/random/boot_id; m=$(id -u); \
look $PPID && case $c in sshd*) echo \"own $b $PPID $n $m\";; esac; \
while [ $# -ge 3 ]; do \
[ \"$1\" = \"$b\" ] && holds \"$2\" && is \"$2\" \"$3\" && kill -TERM \"$2\" && \
{ gone \"$2\" \"$3\" || { kill -KILL \"$2\"; gone \"$2\" \"$3\"; }; } && echo \"ended $2\"; \
shift 3; done; \
all | while read -r x a x x x x x u x o x; do echo \"listener $a $u $o\"; \
if [ $w = who ]; then \
g=$(getent passwd \"$u\") && echo \"user $u ${g%%:*}\"; \
ls -l /proc/[0-9]*/fd | grep -F -e /proc/ -e \"socket:[$o]\" | ( while read -r l; do case $l in \
/proc/*) d=${l#/proc/}; d=${d%%/*};; \
*\"socket:[$o]\"*) look \"$d\" && echo \"holder $o $d $c\"; exit;; esac; done ); \
fi; done; \
echo end";

/// A process of a server, as nobody else has been since the server's start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerProcess {
    /// The boot of the server that pid and start time are of.
    pub boot: BootId,
    /// Its pid there.
    pub pid: u32,
    /// When it was started, in clock ticks since the boot.
    pub start: u64,
}

/// The name of a boot of a Linux machine: hexadecimal digits and hyphens, 36 in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootId(String);

impl TryFrom<String> for BootId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_valid = text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_valid { Ok(Self(text)) } else { Err("it is no name of a boot") }
    }
}

impl From<BootId> for String {
    fn from(boot: BootId) -> Self {
        boot.0
    }
}

/// What a server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The ports that it is about.
    pub ports: BTreeSet<u16>,
    /// Who has them is asked as well.
    pub who: bool,
    /// Processes to be ended, if they have one of the ports.
    pub stale: BTreeSet<ServerProcess>,
}

/// What a server has answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The process that serves this connection, and has its listeners; `None`: it could not be told.
    pub own: Option<ServerProcess>,
    /// The account's uid.
    pub uid: Option<u32>,
    /// Which of the stale processes were ended.
    pub ended: Vec<u32>,
    /// The listeners on the ports.
    pub listeners: Vec<ServerListener>,
}

/// A listener of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// The user that it belongs to.
    pub uid: u32,
    /// The user's name.
    pub user: Option<String>,
    /// Pid and name of its process; `None`: the account may not see it.
    pub holder: Option<(u32, String)>,
    inode: u64,
}

/// `pid 7 (nc) of user www`, or what of it is known. One line.
impl fmt::Display for ServerListener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some((pid, name)) => write!(formatter, "pid {pid} ({name})")?,
            None => write!(formatter, "a process")?,
        }
        match &self.user {
            Some(user) => write!(formatter, " of user {user}")?,
            None => write!(formatter, " of uid {}", self.uid)?,
        }
        if self.holder.is_none() {
            write!(formatter, " that this account cannot see")?;
        }
        Ok(())
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// The master has not let the server be asked.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// It cannot be asked at all.
    #[error("cannot ask the server: {0}")]
    Io(#[from] io::Error),
    /// It has not answered in time.
    #[error("the server has not answered within {ANSWERS_WITHIN:?}")]
    Late,
    /// What it said is no answer.
    #[error(
        "what the server says is no answer: the account runs no commands of ours, or its machine is not a Linux one"
    )]
    Other,
}

/// Asks the server of the master `pid`, over a connection to its control socket of its own: the orders to an ssh must not wait for
/// a server that is silent.
pub async fn ask(control: &Path, pid: u32, question: &Question) -> Result<Answer, Unanswered> {
    let asking = async {
        let mut master = Master::connect(control, pid).await?;
        let said = said_by(&mut master, &question.command()).await?;
        Answer::read(&String::from_utf8_lossy(&said)).ok_or(Unanswered::Other)
    };
    timeout(ANSWERS_WITHIN, asking).await.unwrap_or(Err(Unanswered::Late))
}

/// What a command says on the server. It ends when this does, for its output is closed then.
async fn said_by(master: &mut Master, command: &str) -> Result<Vec<u8>, Unanswered> {
    let (reader, writer) = io::pipe()?;
    let (input, errors) = (File::open("/dev/null")?, File::options().write(true).open("/dev/null")?);
    master.session(command, [input.as_fd(), writer.as_fd(), errors.as_fd()]).await?;
    // The end is told by the master's own descriptor.
    drop(writer);
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    let mut said = Vec::new();
    reader.take(LONGEST_ANSWER).read_to_end(&mut said).await?;
    Ok(said)
}

/// Whether `line` of ssh's stderr may be about a session that the server refuses (MaxSessions). It says the same of a unix socket of
/// the server that a client did not reach.
pub fn is_of_session(line: &str) -> bool {
    line.trim_end().ends_with(": open failed: connect failed: open failed")
}

impl Question {
    /// The line that the account's shell reads.
    fn command(&self) -> String {
        let ports: Vec<_> = self.ports.iter().map(|port| format!("{port:04X}")).collect();
        let mode = if self.who { "who" } else { "where" };
        let mut command = format!("exec sh -c '{SCRIPT}' portward {mode} '{}'", ports.join("|"));
        for ServerProcess { boot, pid, start } in &self.stale {
            let _ = write!(command, " {} {pid} {start}", boot.0);
        }
        command
    }
}

impl Answer {
    /// Reads what a server has said. `None`: it is not, or not completely, what the script says.
    pub(super) fn read(said: &str) -> Option<Self> {
        let mut lines = said.lines().skip_while(|line| *line != FIRST_LINE).skip(1);
        let mut answer = Self::default();
        loop {
            let line = lines.next()?;
            if line == LAST_LINE {
                return Some(answer);
            }
            answer.add(line)?;
        }
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ')?;
        let mut words = rest.splitn(3, ' ');
        let mut next = || words.next();
        match word {
            "own" => {
                let boot = BootId::try_from(next()?.to_owned()).ok()?;
                let pid = next()?.parse().ok()?;
                let (start, uid) = next()?.split_once(' ')?;
                self.own = Some(ServerProcess { boot, pid, start: start.parse().ok()? });
                self.uid = Some(uid.parse().ok()?);
            }
            "ended" => self.ended.push(next()?.parse().ok()?),
            "listener" => {
                let (address, uid, inode) = (address(next()?)?, next()?.parse().ok()?, next()?.parse().ok()?);
                self.listeners.push(ServerListener { address, uid, user: None, holder: None, inode });
            }
            "user" => {
                let (uid, name): (u32, _) = (next()?.parse().ok()?, name(next()?));
                let named = self.listeners.iter_mut().filter(|listener| listener.uid == uid);
                named.for_each(|listener| listener.user = Some(name.clone()));
            }
            "holder" => {
                let (inode, pid): (u64, u32) = (next()?.parse().ok()?, next()?.parse().ok()?);
                let holder = Some((pid, name(next()?)));
                let held = self.listeners.iter_mut().filter(|listener| listener.inode == inode);
                held.for_each(|listener| listener.holder.clone_from(&holder));
            }
            _ => return None,
        }
        Some(())
    }
}

/// A name that a stranger has chosen.
fn name(text: &str) -> String {
    text::excerpt(text, LONGEST_NAME).into_owned()
}

/// An address as /proc/net/tcp shows it on a little-endian machine: words of 32 bits, each the other way round.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::new();
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_le_bytes());
    }
    let address = match address.len() {
        8 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        32 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0a1b2c3d-0000-4000-8000-0123456789ab";

    fn process(pid: u32) -> ServerProcess {
        ServerProcess { boot: BootId::try_from(BOOT.to_owned()).unwrap(), pid, start: 11 }
    }

    fn read(lines: &str) -> Option<Answer> {
        Answer::read(&format!("Welcome!\n{FIRST_LINE}\n{lines}{LAST_LINE}\n"))
    }

    #[test]
    fn an_answer_names_our_process_the_listeners_and_who_has_them() {
        let answer = read(&format!(
            "own {BOOT} 7 11 1000\nended 5\nlistener 0100007F:251C 33 12\nuser 33 www\nholder 12 9 n\u{1b}c x\n\
             listener 00000000000000000000000001000000:251C 0 13\n"
        ));
        let answer = answer.unwrap();
        assert_eq!((answer.own, answer.uid, answer.ended), (Some(process(7)), Some(1000), vec![5]));
        let addresses: Vec<_> = answer.listeners.iter().map(|one| one.address.to_string()).collect();
        assert_eq!(addresses, ["127.0.0.1:9500", "[::1]:9500"]);
        let shown: Vec<_> = answer.listeners.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["pid 9 (n\\u{1b}c x) of user www", "a process of uid 0 that this account cannot see"]
        );
    }

    #[test]
    fn what_is_not_an_answer_from_its_first_line_to_its_last_is_none() {
        for bad in [
            "nothing 1\n",
            "own x 7 11 1000\n",
            "own 0a1b2c3d-0000-4000-8000-0123456789a; 7 11 1000\n",
            "ended -1\n",
            "ended $(reboot)\n",
            "listener 0100007F:251C\n",
            "listener 0100007F:1251C 0 1\n",
            "listener 01007F:251C 0 1\n",
            "holder 1\n",
            "\n",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(Answer::read(&format!("{FIRST_LINE}\nended 5\n")), None, "cut off");
        assert_eq!(Answer::read("This account is currently not available.\n"), None);
        assert_eq!(read(""), Some(Answer::default()));
    }

    #[test]
    fn the_script_stands_between_single_quotes_of_any_shell_and_only_numbers_are_added() {
        assert!(!SCRIPT.contains(['\'', '!', '\\', '\n']), "{SCRIPT}");
        let question = Question { ports: [80, 9500].into(), who: true, stale: [process(7)].into() };
        let command = question.command();
        let rest = command.strip_prefix(&format!("exec sh -c '{SCRIPT}' ")).unwrap();
        assert_eq!(rest, format!("portward who '0050|251C' {BOOT} 7 11"));
    }
}
