//! `colcrypt escrow create` and `reshare`: a key, or the same key again, in shares for their holders.

use std::{
    fs,
    io::{IsTerminal, Write, stderr, stdin},
    path::PathBuf,
    str::FromStr,
};

use clap::Args;
use colcrypt_core::EscrowKey;
use colcrypt_escrow::{
    Share,
    collect::Collector,
    record::{Place, Record, Wanted},
};
use zeroize::Zeroizing;

use super::{
    files::{read_record, write_new, write_whole},
    given::Source,
    sheet,
};

/// Who holds shares, and where they go.
#[derive(Args)]
pub struct Sharing {
    /// How many shares there are
    #[arg(long, default_value_t = 5, conflicts_with = "group")]
    shares: u8,
    /// How many of them it takes
    #[arg(long, default_value_t = 3, conflicts_with = "group")]
    threshold: u8,
    /// Groups in the place of one, each as NAME:NEEDED/MEMBERS: --group directors:2/3 --group auditors:2/3
    #[arg(long, value_name = "NAME:NEEDED/MEMBERS")]
    group: Vec<GroupWanted>,
    /// How many of the groups it takes; all, where nothing is said
    #[arg(long, requires = "group")]
    groups_needed: Option<u8>,
    /// A holder's name, and the age key that his share is encrypted to: 'Ada Lovelace' or 'Ada Lovelace=age1…'. In the
    /// order of the groups
    #[arg(long, value_name = "NAME[=AGE KEY]")]
    holder: Vec<HolderWanted>,
    /// Where the public record of the escrow is written; never over another file
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// The directory for shares of holders with an age key
    #[arg(long, value_name = "DIRECTORY")]
    encrypted: Option<PathBuf>,
    /// The directory for sheets to print, which are NOT encrypted: a disk in memory
    #[arg(long, value_name = "DIRECTORY")]
    sheets: Option<PathBuf>,
    /// Print the other shares one after the other, without a terminal to show them at
    #[arg(long)]
    print: bool,
}

#[derive(Args)]
pub struct Create {
    /// What people call the escrow
    #[arg(long)]
    name: String,
    #[command(flatten)]
    sharing: Sharing,
}

#[derive(Args)]
pub struct Reshare {
    /// The record of the sharing there is
    #[arg(long, value_name = "FILE")]
    old_record: PathBuf,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    sharing: Sharing,
}

#[derive(Clone)]
struct GroupWanted {
    name: String,
    needed: u8,
    members: u8,
}

impl FromStr for GroupWanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (name, numbers) = text.rsplit_once(':')?;
            let (needed, members) = numbers.split_once('/')?;
            Some(Self {
                name: name.to_owned(),
                needed: needed.parse().ok()?,
                members: members.parse().ok()?,
            })
        };
        parts().ok_or_else(|| "a group is NAME:NEEDED/MEMBERS, such as directors:2/3".into())
    }
}

#[derive(Clone)]
struct HolderWanted {
    name: String,
    key: Option<age::x25519::Recipient>,
}

impl FromStr for HolderWanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((name, key)) = text.rsplit_once("=age1") else {
            return Ok(Self {
                name: text.to_owned(),
                key: None,
            });
        };
        let key = format!("age1{key}")
            .parse()
            .map_err(|why: &str| format!("the age key of {name} is none: {why}"))?;
        Ok(Self {
            name: name.to_owned(),
            key: Some(key),
        })
    }
}

impl Create {
    pub fn run(&self) -> Result<(), String> {
        let plan = self.sharing.plan()?;
        let key = EscrowKey::generate().map_err(|error| error.to_string())?;
        let record = self.sharing.share(&self.name, &key, &plan)?;
        println!("escrow:      {} ({})", record.name, record.fingerprint());
        println!("public key:  {}", record.recipient);
        println!("record:      {}", self.sharing.record.display());
        println!();
        println!("Nobody has the private key now but the holders together. On each database:");
        println!(
            "  SELECT colcrypt.add_provider('escrow', 'escrow', '{{\"recipient\": \"{}\"}}');",
            record.recipient
        );
        println!("  SELECT colcrypt.add_root('KEYRING', 'escrow');");
        println!("Give each holder a copy of the record, and have each check his share:");
        println!(
            "  colcrypt escrow check --record {}",
            self.sharing.record.display()
        );
        Ok(())
    }
}

impl Reshare {
    pub fn run(&self) -> Result<(), String> {
        let plan = self.sharing.plan()?;
        let old = read_record(&self.old_record)?;
        let key = self
            .source
            .collect(Some(&old))?
            .key()
            .map_err(|error| error.to_string())?;
        let record = self.sharing.share(&old.name, &key, &plan)?;
        println!(
            "escrow:      {} ({}), as before",
            record.name,
            record.fingerprint()
        );
        println!("record:      {}", self.sharing.record.display());
        println!();
        println!(
            "The old shares still open everything: have each of them destroyed, and the old record with them."
        );
        println!(
            "If too many of them are out of reach, make a new escrow instead, and drop this one from the keyrings."
        );
        Ok(())
    }
}

struct Plan {
    groups_needed: u8,
    groups: Vec<Wanted>,
    /// In the order of the groups.
    holders: Vec<HolderWanted>,
}

impl Sharing {
    /// Looks at everything that can be wrong before there is a key.
    fn plan(&self) -> Result<Plan, String> {
        let single = [GroupWanted {
            name: "holders".into(),
            needed: self.threshold,
            members: self.shares,
        }];
        let groups = if self.group.is_empty() {
            &single[..]
        } else {
            &self.group
        };
        let count: usize = groups.iter().map(|group| usize::from(group.members)).sum();
        let mut holders = self.holder.clone();
        if holders.is_empty() {
            holders = (1..=count)
                .map(|number| HolderWanted {
                    name: format!("holder {number}"),
                    key: None,
                })
                .collect();
        }
        if holders.len() != count {
            return Err(format!(
                "{count} shares and {} holders: name each of them, or none",
                holders.len()
            ));
        }
        let is_open = holders.iter().any(|holder| holder.key.is_none());
        let is_shown = stdin().is_terminal() && stderr().is_terminal();
        if holders.iter().any(|holder| holder.key.is_some()) && self.encrypted.is_none() {
            return Err("say where encrypted shares go (--encrypted DIRECTORY)".into());
        }
        if is_open && self.sheets.is_none() && !self.print && !is_shown {
            return Err("there is no terminal to show shares at, and nothing of them is written unencrypted unless asked: \
                        give each holder an age key, or say --sheets DIRECTORY or --print".into());
        }
        if self.record.exists() {
            return Err(format!(
                "{} exists already: a record is never written over",
                self.record.display()
            ));
        }
        for (number, holder) in (1..).zip(&holders) {
            if let Some(path) = self.file_of(number, holder).filter(|path| path.exists()) {
                return Err(format!(
                    "{} exists already, and a share is never written over. Where no record lies beside it, a sharing ended before \
                     it was done: its shares count for nothing. Wipe them, and begin again",
                    path.display()
                ));
            }
        }
        let mut names = holders.iter().map(|holder| holder.name.clone());
        let wanted = groups.iter().map(|group| Wanted {
            name: group.name.clone(),
            needed: group.needed,
            holders: names.by_ref().take(usize::from(group.members)).collect(),
        });
        Ok(Plan {
            groups_needed: self
                .groups_needed
                .unwrap_or(u8::try_from(groups.len()).unwrap_or(u8::MAX)),
            groups: wanted.collect(),
            holders,
        })
    }

    fn share(&self, name: &str, key: &EscrowKey, plan: &Plan) -> Result<Record, String> {
        let (record, shares) = Record::make(name, key, plan.groups_needed, &plan.groups)
            .map_err(|error| error.to_string())?;
        prove(&record, key, &shares)?;
        for directory in [&self.encrypted, &self.sheets].into_iter().flatten() {
            fs::create_dir_all(directory)
                .map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        let all = shares.iter().flatten();
        for (number, (holder, share)) in (1..).zip(plan.holders.iter().zip(all)) {
            self.hand_over(&record, number, holder, share)?;
        }
        // Last, and whole: a record on the disk says that every share was handed over.
        write_whole(&self.record, record.text().as_bytes(), 0o644)?;
        Ok(record)
    }

    /// Where a holder's share is written, if it is.
    fn file_of(&self, number: usize, holder: &HolderWanted) -> Option<PathBuf> {
        let (directory, kind) = match holder.key {
            Some(_) => (self.encrypted.as_ref()?, "age"),
            None => (self.sheets.as_ref()?, "pdf"),
        };
        let name = file_name(number, &holder.name);
        Some(directory.join(format!("{name}.{kind}")))
    }

    fn hand_over(
        &self,
        record: &Record,
        number: usize,
        holder: &HolderWanted,
        share: &Share,
    ) -> Result<(), String> {
        let words = share.words();
        let path = self.file_of(number, holder);
        if let (Some(key), Some(path)) = (&holder.key, &path) {
            let encrypted =
                age::encrypt(key, words.as_bytes()).map_err(|error| error.to_string())?;
            write_new(path, &encrypted, 0o600)?;
            println!(
                "{}: encrypted to his key in {}",
                holder.name,
                path.display()
            );
        } else if let Some(path) = &path {
            let place = Place {
                group: share.group,
                member: share.member,
            };
            write_new(path, &sheet::pdf(record, place, &words)?, 0o600)?;
            println!(
                "{}: a sheet to print in {}, NOT encrypted: print it and wipe it",
                holder.name,
                path.display()
            );
        } else if self.print {
            println!("{}: {}", holder.name, words.as_str());
        } else {
            show(&holder.name, &words)?;
        }
        Ok(())
    }
}

/// Puts shares together again before anybody relies on them, from their words.
fn prove(record: &Record, key: &EscrowKey, shares: &[Vec<Share>]) -> Result<(), String> {
    let mut collector = Collector::new(Some(record));
    for share in shares.iter().flatten() {
        let read = Share::parse(&share.words()).map_err(|error| error.to_string())?;
        collector.add(read).map_err(|error| error.to_string())?;
    }
    let again = collector.key().map_err(|error| error.to_string())?;
    if again != *key {
        return Err("the shares do not give the key: nothing was handed over".into());
    }
    Ok(())
}

/// On the terminal, until its holder has it; then it is wiped from there.
fn show(holder: &str, words: &str) -> Result<(), String> {
    let mut screen = stderr().lock();
    let mut write = |text: &str| {
        screen
            .write_all(text.as_bytes())
            .map_err(|error| error.to_string())
    };
    write(&format!(
        "\n{holder}, write these words down. Nobody else looks at the screen.\n\n"
    ))?;
    for (at, word) in words.split(' ').enumerate() {
        let end = if at % 4 == 3 { "\n" } else { "" };
        write(&Zeroizing::new(format!("{:>3}. {word:<10}{end}", at + 1)))?;
    }
    write("\n\nEnter wipes the screen. ")?;
    let mut line = String::new();
    stdin()
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    // The screen, and what was scrolled off it.
    write("\x1b[2J\x1b[3J\x1b[H")?;
    Ok(())
}

fn file_name(number: usize, holder: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() { c } else { '-' };
    format!(
        "share-{number:02}-{}",
        holder.chars().map(plain).collect::<String>()
    )
}
