//! What ssh itself makes of its arguments and of its configuration files: the answer to `ssh -G`.

/// ssh's settings for one destination, as it prints them: a word and its value on each line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// From the lines of `ssh -G`.
    pub fn from_lines(lines: impl IntoIterator<Item: AsRef<str>>) -> Self {
        let pair = |line: &str| {
            let (name, value) = line.trim_end().split_once(' ')?;
            Some((name.to_ascii_lowercase(), value.to_owned()))
        };
        Self(lines.into_iter().filter_map(|line| pair(line.as_ref())).collect())
    }

    /// All values of a setting, whose name is in lower case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a setting; empty if ssh does not tell one.
    pub fn one(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    /// Whether a setting is there and is not switched off.
    pub fn is_on(&self, name: &str) -> bool {
        !["", "no", "none", "false"].contains(&self.one(name))
    }

    /// Whether ssh tells this setting, and so knows the option of that name, in whatever case.
    pub fn tells(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_be_there_several_times() {
        let lines = ["host db", "identityfile ~/.ssh/a", "identityfile ~/.ssh/b", "proxycommand none"];
        let settings = Settings::from_lines(lines);
        assert_eq!(settings.all("identityfile"), ["~/.ssh/a", "~/.ssh/b"]);
        assert_eq!((settings.one("host"), settings.one("missing")), ("db", ""));
        assert!(!settings.is_on("proxycommand") && !settings.is_on("missing") && settings.is_on("host"));
        assert!(settings.tells("IdentityFile") && !settings.tells("missing"));
    }
}
