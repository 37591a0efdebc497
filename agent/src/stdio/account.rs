//! The user that a server runs as, from `/etc/passwd`.

use std::path::PathBuf;

/// Where users are looked up. Directory services are not asked: the libraries that do so are no
/// safe code; a number can be written instead of a name.
const PASSWD: &str = "/etc/passwd";

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the file names it.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its group. It has no other.
    pub gid: u32,
    /// Its home, where it is known.
    pub home: Option<PathBuf>,
}

impl Account {
    /// The account of a name, of a number, or of `uid:gid`.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn find(text: &str) -> Result<Self, String> {
        let passwd = std::fs::read_to_string(PASSWD).unwrap_or_default();
        find_in(&passwd, text)
    }
}

impl Account {
    /// Whether the agent can run something as this user.
    pub fn can_be_taken(&self) -> bool {
        let own = rustix::process::getuid();
        own.is_root() || own.as_raw() == self.uid
    }
}

fn find_in(passwd: &str, text: &str) -> Result<Account, String> {
    let mut entries = passwd.lines().filter_map(entry);
    if let Some((uid, gid)) = text.split_once(':') {
        return match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(Account {
                name: text.to_owned(),
                home: entries.find(|a| a.uid == uid).and_then(|a| a.home),
                uid,
                gid,
            }),
            _ => Err(format!("`{text}` is not `uid:gid` in numbers")),
        };
    }
    let number: Option<u32> = text.parse().ok();
    let mut found = match number {
        Some(uid) => entries.find(|account| account.uid == uid),
        None => entries.find(|account| account.name == text),
    };
    if let Some(account) = &mut found {
        text.clone_into(&mut account.name);
    }
    found.ok_or_else(|| {
        format!("{PASSWD} has no user `{text}`; one that it does not know is written `uid:gid`")
    })
}

fn entry(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
        return None;
    };
    Some(Account {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: (!home.is_empty()).then(|| PathBuf::from(home)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_TEXT: &str =
        "root:x:0:0:root:/root:/bin/bash\n# a comment\nmcp:x:990:991::/srv/mcp:/usr/sbin/nologin\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        for text in ["mcp", "990"] {
            let account = find_in(PASSWD_TEXT, text).expect("a user");
            assert_eq!((account.uid, account.gid), (990, 991), "{text}");
            assert_eq!(account.home, Some(PathBuf::from("/srv/mcp")));
        }
        let account = find_in(PASSWD_TEXT, "5000:5001").expect("numbers");
        assert_eq!((account.uid, account.gid, account.home), (5000, 5001, None));
        for text in ["nobody", "17", "mcp:mcp", ""] {
            assert!(find_in(PASSWD_TEXT, text).is_err(), "{text}");
        }
    }
}
