//! Which tunnel a request means.

use super::status::TunnelStatus;
use crate::config::desired::Tunnel;
use crate::config::identity::{SHORTEST_PREFIX, is_hash_prefix};
use crate::text;

/// Why an identifier names no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Nothing fits.
    #[error(
        "no tunnel is called `{id}`: `portward status` (GET /status) lists their names and hashes; a prefix of a hash \
         needs {SHORTEST_PREFIX} digits or more"
    )]
    Unknown {
        /// As asked for.
        id: String,
    },
    /// Several fit.
    #[error("`{id}` may be any of {}: give a name, or more digits of the hash", names.join(", "))]
    Ambiguous {
        /// As asked for.
        id: String,
        /// Names of those that fit.
        names: Vec<String>,
    },
}

/// A tunnel, by what a request may call it.
pub trait Identified {
    /// Its name.
    fn name(&self) -> &str;
    /// autossh-tunnel's identity.
    fn hash(&self) -> &str;
    /// autossh-tunnel's older identity.
    fn log_id(&self) -> &str;
}

impl Identified for TunnelStatus {
    fn name(&self) -> &str {
        &self.name
    }

    fn hash(&self) -> &str {
        &self.hash
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }
}

impl Identified for Tunnel {
    fn name(&self) -> &str {
        &self.name
    }

    fn hash(&self) -> &str {
        &self.hash
    }

    fn log_id(&self) -> &str {
        &self.log_id
    }
}

/// The tunnel that `id` names: by name, hash, log_id or a unique prefix of the hash.
///
/// A name goes first, because it is what a person has chosen.
pub fn find<'a, T: Identified>(tunnels: &'a [T], id: &str) -> Result<&'a T, LookupError> {
    position(tunnels, id).map(|index| &tunnels[index])
}

/// Where that tunnel is among `tunnels`.
pub fn position<T: Identified>(tunnels: &[T], id: &str) -> Result<usize, LookupError> {
    if let Some(named) = tunnels.iter().position(|tunnel| tunnel.name() == id) {
        return Ok(named);
    }
    let is_prefix = is_hash_prefix(id);
    let fits = |tunnel: &T| tunnel.log_id() == id || (is_prefix && tunnel.hash().starts_with(id));
    let fitting: Vec<usize> = (0..tunnels.len()).filter(|index| fits(&tunnels[*index])).collect();
    match fitting[..] {
        [] => Err(LookupError::Unknown { id: shown(id) }),
        [index] => Ok(index),
        _ => Err(LookupError::Ambiguous {
            id: shown(id),
            names: fitting.iter().map(|index| tunnels[*index].name().to_owned()).collect(),
        }),
    }
}

/// Names are shorter than this; what is longer was asked for by no person.
fn shown(id: &str) -> String {
    text::excerpt(id, 256).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::tunnel;
    use super::*;

    fn three() -> Vec<TunnelStatus> {
        let mut tunnels = vec![tunnel("database"), tunnel("web"), tunnel("0123456789abcdef")];
        tunnels[0].hash = "0123456789abcdef0000000000000001".to_owned();
        tunnels[0].log_id = "aaaaaaaa".to_owned();
        tunnels[1].hash = "0123456789abcdef0000000000000002".to_owned();
        tunnels[1].log_id = "bbbbbbbb".to_owned();
        tunnels[2].hash = "fedcba98765432100000000000000003".to_owned();
        tunnels[2].log_id = "01234567".to_owned();
        tunnels
    }

    fn name_of(id: &str) -> Result<String, LookupError> {
        find(&three(), id).map(|tunnel| tunnel.name.clone())
    }

    #[test]
    fn name_hash_log_id_and_prefix_name_a_tunnel() {
        for id in ["database", "0123456789abcdef0000000000000001", "aaaaaaaa"] {
            assert_eq!(name_of(id).unwrap(), "database", "{id}");
        }
        assert_eq!(name_of("fedcba98").unwrap(), "0123456789abcdef");
    }

    #[test]
    fn a_name_goes_before_a_prefix_that_reads_the_same() {
        assert_eq!(name_of("0123456789abcdef").unwrap(), "0123456789abcdef");
    }

    #[test]
    fn a_prefix_of_several_hashes_is_ambiguous_and_names_them() {
        let names = vec!["database".to_owned(), "web".to_owned()];
        let id = "0123456789a".to_owned();
        assert_eq!(name_of(&id), Err(LookupError::Ambiguous { id, names }));
    }

    #[test]
    fn a_log_id_that_is_also_a_prefix_of_other_hashes_is_ambiguous() {
        assert!(matches!(name_of("01234567"), Err(LookupError::Ambiguous { names, .. }) if names.len() == 3));
    }

    #[test]
    fn short_prefixes_and_other_texts_are_unknown() {
        for id in ["", "fedcba9", "FEDCBA98", "nothing", "fedcba98-"] {
            assert_eq!(name_of(id), Err(LookupError::Unknown { id: id.to_owned() }));
        }
    }
}
