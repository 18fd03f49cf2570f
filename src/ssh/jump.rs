//! Keeps the ssh to a jump host from becoming a master that stays behind.
//!
//! ssh's options do not reach the ssh that it starts for ProxyJump, nor one in a ProxyCommand: with ControlMaster and
//! ControlPersist in the jump host's own Host block, that one leaves a master in the background which nobody ends, and which
//! other tunnels and the user's sessions come to depend on. So where `ssh -G` shows that this would happen, ssh is given a
//! ProxyCommand that says the same with the options that prevent it. A master that the user has already is used.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::query::ask;
use super::settings::Settings;
use crate::config::desired::Ssh;
use crate::config::environment::Environment;
use crate::shell;

/// Hosts on the way; ssh itself has no limit.
const LONGEST_CHAIN: u8 = 8;

/// The option that leaves an ssh behind in another way; OpenSSH 8.7 and later know it.
const FORK: &str = "ForkAfterAuthentication";

/// One ssh to a jump host, as it is written in a ProxyCommand.
struct Hop {
    /// What precedes its options, the program included, as written.
    program: String,
    /// What follows them, as written.
    arguments: String,
    /// Its arguments when it is asked; `None` if only a shell could tell them.
    question: Option<Command>,
    /// Its -F, which it hands on to the ssh before it.
    config_file: Option<PathBuf>,
    /// What its arguments are when it is given a ProxyCommand: without -J.
    arguments_behind_proxy: String,
}

/// The ProxyCommand that the tunnel's ssh, whose settings these are, needs instead of its own; `None` if it may have its own.
pub(super) async fn contained(ssh: &Ssh, settings: &Settings) -> Option<String> {
    let config_file = ssh.config_file.as_deref();
    contained_within(&ssh.program, config_file, &ssh.env, settings, LONGEST_CHAIN).await
}

/// As [`contained`], for any ssh on the way: `program` with `-F config_file`.
async fn contained_within(
    program: &Path,
    config_file: Option<&Path>,
    env: &Environment,
    settings: &Settings,
    hops_left: u8,
) -> Option<String> {
    let hop = match settings.one("proxyjump") {
        "" | "none" => Hop::of_command(settings)?,
        chain => Hop::of_jump(program, config_file, chain)?,
    };
    let hops_left = hops_left.checked_sub(1)?;
    let (known, behind) = match hop.question {
        Some(mut question) => {
            question.envs(env.iter());
            let program = question.get_program().to_owned();
            let settings = ask(question).await?;
            let config_file = hop.config_file.as_deref();
            let further = contained_within(Path::new(&program), config_file, env, &settings, hops_left);
            let behind = Box::pin(further).await;
            if behind.is_none()
                && !settings.is_on("controlmaster")
                && !settings.is_on("forkafterauthentication")
            {
                return None;
            }
            (settings, behind)
        }
        None => (Settings::default(), None),
    };
    let mut options = String::from(" -o ControlMaster=no -o ControlPersist=no");
    if known.tells(FORK) {
        options.extend([" -o ", FORK, "=no"]);
    }
    let arguments = match behind {
        Some(behind) => {
            options.extend([" -o ", &word(&format!("ProxyCommand={behind}"))]);
            hop.arguments_behind_proxy
        }
        None => hop.arguments,
    };
    Some(format!("{}{options}{arguments}", hop.program))
}

impl Hop {
    /// What ssh makes of `ProxyJump extra,[user@]host[:port]` (ssh.c, "Setting implicit ProxyCommand from ProxyJump").
    fn of_jump(program: &Path, config_file: Option<&Path>, chain: &str) -> Option<Self> {
        let (extra, last) = chain.rsplit_once(',').map_or((None, chain), |(extra, last)| (Some(extra), last));
        let (user, rest) = last.rsplit_once('@').map_or((None, last), |(user, rest)| (Some(user), rest));
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let file = config_file.map(|file| file.to_str());
        let mut options = Vec::new();
        for (option, value) in [("-l", user), ("-p", port), ("-F", file.unwrap_or_default())] {
            options.extend(value.into_iter().flat_map(|value| [option, value]));
        }
        let through: Vec<&str> = extra.into_iter().flat_map(|extra| ["-J", extra]).collect();
        let mut question = Command::new(program);
        question.arg("-G").args(&options).args(&through).arg("--").arg(host);
        let text = |options: &[&[&str]]| {
            let words = options.concat().into_iter().flat_map(|option| [" ".to_owned(), word(option)]);
            format!("{} -W '[%h]:%p' -- {}", words.collect::<String>(), word(host))
        };
        Some(Self {
            program: word(program.to_str()?),
            arguments: text(&[&options, &through]),
            question: Some(question),
            config_file: config_file.map(Path::to_owned),
            arguments_behind_proxy: text(&[&options]),
        })
    }

    /// A ProxyCommand that is an ssh; `None` if it is none, or another program.
    fn of_command(settings: &Settings) -> Option<Self> {
        let text = settings.one("proxycommand").trim();
        let command = text.strip_prefix("exec ").unwrap_or(text).trim_start();
        let (program, arguments) = command.split_once(' ')?;
        if program != "ssh" && !(program.ends_with("/ssh") && shell::word(program) == program) {
            return None;
        }
        let words = words(arguments, settings);
        let config_file = words.as_deref().map(config_file_of);
        let question = words.filter(|_| config_file != Some(ConfigFile::Unclear)).map(|words| {
            let mut question = Command::new(program);
            question.arg("-G").args(words);
            question
        });
        let config_file = match config_file {
            Some(ConfigFile::Given(file)) => Some(file),
            Some(ConfigFile::Default | ConfigFile::Unclear) | None => None,
        };
        let arguments = format!(" {arguments}");
        let arguments_behind_proxy = arguments.clone();
        Some(Self { program: program.to_owned(), arguments, question, config_file, arguments_behind_proxy })
    }
}

/// The -F among an ssh's arguments.
#[derive(Debug, PartialEq, Eq)]
enum ConfigFile {
    Default,
    Given(PathBuf),
    /// It may be there behind other options, in the same word.
    Unclear,
}

fn config_file_of(words: &[String]) -> ConfigFile {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("-F") {
            Some("") => {
                return words.next().map_or(ConfigFile::Unclear, |file| ConfigFile::Given(file.into()));
            }
            Some(file) => return ConfigFile::Given(file.into()),
            None if word.starts_with('-') && !word.starts_with("-o") && word.contains('F') => {
                return ConfigFile::Unclear;
            }
            None => {}
        }
    }
    ConfigFile::Default
}

/// The words of a ProxyCommand with ssh's tokens filled in; `None` if they hold what a shell would do something with.
fn words(text: &str, settings: &Settings) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            (None | Some(_), '%') => {
                let value = match letters.next()? {
                    '%' => "%",
                    'h' => settings.one("hostname"),
                    'n' => settings.one("host"),
                    'p' => settings.one("port"),
                    'r' => settings.one("user"),
                    _ => return None,
                };
                word.get_or_insert_default().push_str(value);
            }
            (Some('\''), letter) => word.get_or_insert_default().push(letter),
            (_, '$' | '`' | '\\')
            | (None, '&' | ';' | '|' | '<' | '>' | '(' | ')' | '{' | '}' | '*' | '?' | '~' | '#' | '\n') => {
                return None;
            }
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

/// A text as one word of a ProxyCommand: neither ssh nor the shell changes anything in it.
fn word(text: &str) -> String {
    shell::word(&text.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::desired::Work;

    fn settings(lines: &[&str]) -> Settings {
        Settings::from_lines(lines)
    }

    #[test]
    fn a_jump_is_written_as_ssh_writes_it() {
        let hop =
            |chain: &str| Hop::of_jump(Path::new("ssh"), Some(Path::new("/my 50% config")), chain).unwrap();
        assert_eq!(hop("b").arguments, " -F '/my 50%% config' -W '[%h]:%p' -- b");
        let nested = hop("alice@a:2201,bob@[::1]:2202");
        assert_eq!(
            nested.arguments,
            " -l bob -p 2202 -F '/my 50%% config' -J alice@a:2201 -W '[%h]:%p' -- ::1"
        );
        assert!(!nested.arguments_behind_proxy.contains("-J"));
        assert_eq!(
            hop("CORP\\alice@b").arguments,
            " -l 'CORP\\alice' -F '/my 50%% config' -W '[%h]:%p' -- b"
        );
    }

    #[test]
    fn only_an_ssh_is_a_hop() {
        for other in ["none", "nc %h %p", "sshuttle %h", "/opt/$X/ssh -W %h:%p j", "my-ssh -W %h:%p j"] {
            assert!(Hop::of_command(&settings(&[&format!("proxycommand {other}")])).is_none(), "{other}");
        }
        for ssh in ["ssh -W %h:%p j", "exec ssh -W %h:%p j", "/usr/bin/ssh j nc %h %p 2>/dev/null"] {
            assert!(Hop::of_command(&settings(&[&format!("proxycommand {ssh}")])).is_some(), "{ssh}");
        }
    }

    #[test]
    fn words_are_a_shells_unless_only_a_shell_knows() {
        let settings = settings(&["hostname db", "port 2222", "user alice", "host alias"]);
        assert_eq!(
            words("-W  '[%h]:%p' -l \"%r\" j%%", &settings).unwrap(),
            ["-W", "[db]:2222", "-l", "alice", "j%"]
        );
        assert_eq!(words("-o 'a b'\"c d\" ''", &settings).unwrap(), ["-o", "a bc d", ""]);
        for text in ["$HOME", "\"$HOME\"", "a;b", "~/x", "'open", "2>/dev/null", "%k", "`x`", "a\\ b"] {
            assert_eq!(words(text, &settings), None, "{text}");
        }
    }

    #[test]
    fn a_word_passes_ssh_and_the_shell_unchanged() {
        let text = "a 'b' 100% $HOME \\ \"c\"";
        let through_ssh = word(text).replace("%%", "%");
        let output =
            Command::new("/bin/sh").args(["-c", &format!("printf %s {through_ssh}")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
    }

    #[test]
    fn a_hop_hands_on_its_own_configuration_file() {
        let of = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            config_file_of(&words)
        };
        assert_eq!(of("-W h:22 j"), ConfigFile::Default);
        assert_eq!(of("-oForwardAgent=no -F /a j"), ConfigFile::Given("/a".into()));
        assert_eq!(of("-F/a j"), ConfigFile::Given("/a".into()));
        assert_eq!(of("-qF /a j"), ConfigFile::Unclear);
    }

    #[tokio::test]
    async fn every_ssh_of_a_chain_is_contained_if_one_would_stay() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a config");
        let text = "Host b\n ProxyJump a\nHost a\n ControlMaster auto\n ControlPersist 1m\n ControlPath /x\nHost plain\n\
                    Match originalhost marked exec \"test x$MARK = xyes\"\n ControlMaster auto\n";
        std::fs::write(&config, text).unwrap();
        let text = format!(
            "tunnels: [{{remote_host: db, remote_port: 1, local_port: 2, env: {{MARK: 'yes'}}, ssh: {{config_file: '{}'}}}}]",
            config.display()
        );
        let desired = crate::config::parse(&text, Path::new("/etc/c.yaml")).unwrap();
        let Work::Ssh(tunnel) = &desired.tunnels[0].work else { panic!("an ssh tunnel") };
        let contained =
            async |line: &str| contained(&tunnel.ssh, &settings(&["hostname db", "port 22", line])).await;
        assert_eq!(contained("proxyjump plain").await, None);
        assert_eq!(contained("loglevel INFO").await, None);
        assert!(
            contained("proxyjump marked").await.is_some(),
            "a hop is asked with the tunnel's environment"
        );
        for chain in ["proxyjump b", "proxyjump a,plain"] {
            let command = contained(chain).await.unwrap();
            assert_eq!(command.matches("ControlMaster=no").count(), 2, "{chain}: {command}");
        }
        let by_hand = contained("proxycommand ssh -W %h:%p whatever 2>/dev/null").await.unwrap();
        assert_eq!(by_hand, "ssh -o ControlMaster=no -o ControlPersist=no -W %h:%p whatever 2>/dev/null");
    }
}
