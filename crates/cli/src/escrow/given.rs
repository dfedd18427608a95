//! Shares as their holders give them: words that are typed, the text of a QR code, or a file, as it is or encrypted.

use std::{
    fs,
    io::{self, IsTerminal, Read, stdin},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use colcrypt_escrow::{NotAShare, Share, collect::Collector, record::Record};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Of a share of 256 bits.
const WORDS: usize = 33;
const ENCRYPTED: &[u8] = b"age-encryption.org/";

/// Where shares come from.
#[derive(clap::Args)]
pub struct Source {
    /// Opens shares that are encrypted to a holder's age key; may be given several times
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// Show what is typed at a terminal
    #[arg(long)]
    echo: bool,
}

impl Source {
    /// Asks for shares until there are enough.
    ///
    /// # Errors
    /// When there are no more and it takes more.
    pub fn collect<'a>(&self, record: Option<&'a Record>) -> Result<Collector<'a>, String> {
        let mut collector = Collector::new(record);
        let mut typed = Typed::new(self.echo);
        while let Some(missing) = collector.missing() {
            eprintln!("missing: {missing}");
            let Some(share) = self.next(&mut typed)? else {
                return Err(format!("no more shares were given; missing: {missing}"));
            };
            match share.and_then(|share| collector.add(share).map_err(|why| why.to_string())) {
                Ok(name) => eprintln!("taken: {name}"),
                Err(why) => eprintln!("refused: {why}"),
            }
        }
        Ok(collector)
    }

    /// Asks for one share. What is none is told, and asked for again at a terminal.
    ///
    /// # Errors
    /// When none is given.
    pub fn one(&self) -> Result<Share, String> {
        let mut typed = Typed::new(self.echo);
        loop {
            match self.next(&mut typed)? {
                None => return Err("no share was given".into()),
                Some(Ok(share)) => return Ok(share),
                Some(Err(why)) if typed.is_terminal => eprintln!("refused: {why}"),
                Some(Err(why)) => return Err(why),
            }
        }
    }

    /// The next share, or why what was given is none; nothing at the end of the input.
    fn next(&self, typed: &mut Typed) -> Result<Option<Result<Share, String>>, String> {
        if typed.is_terminal {
            eprintln!("a share's words, or @FILE; an empty line ends one that is short:");
        }
        let mut text = Zeroizing::new(String::with_capacity(1024));
        loop {
            let line = typed.line().map_err(|error| error.to_string())?;
            let is_end = line.is_none();
            let line = line.unwrap_or_default();
            let line = line.trim();
            if text.is_empty()
                && let Some(path) = line.strip_prefix('@')
            {
                return Ok(Some(self.of_file(Path::new(path))));
            }
            text.push_str(line);
            text.push(' ');
            let words = text.split_whitespace().count();
            if words == 0 {
                text.clear();
            }
            match words {
                0 if is_end => return Ok(None),
                0 => {}
                words if words >= WORDS || is_end || line.is_empty() => {
                    return Ok(Some(Share::parse(&text).map_err(|why| in_words(&why))));
                }
                _ => {}
            }
        }
    }

    fn of_file(&self, path: &Path) -> Result<Share, String> {
        let shown = path.display();
        let bytes = Zeroizing::new(fs::read(path).map_err(|error| format!("{shown}: {error}"))?);
        let plain = if bytes.starts_with(ENCRYPTED) {
            self.decrypted(&bytes)
                .map_err(|error| format!("{shown}: {error}"))?
        } else {
            bytes
        };
        let text =
            std::str::from_utf8(&plain).map_err(|_| format!("{shown}: it is no share's words"))?;
        Share::parse(text).map_err(|why| format!("{shown}: {}", in_words(&why)))
    }

    fn decrypted(&self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
        if self.identity.is_empty() {
            return Err("it is encrypted: name its holder's age key file (--identity)".into());
        }
        let mut identities = Vec::new();
        for path in &self.identity {
            let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
            let file = age::IdentityFile::from_file(path.to_string_lossy().into_owned())
                .map_err(|error| of_file(&error))?;
            identities.extend(file.into_identities().map_err(|error| of_file(&error))?);
        }
        let decryptor = age::Decryptor::new(bytes).map_err(|error| error.to_string())?;
        let mut reader = decryptor
            .decrypt(
                identities
                    .iter()
                    .map(|identity| &**identity as &dyn age::Identity),
            )
            .map_err(|error| error.to_string())?;
        let mut plain = Zeroizing::new(Vec::with_capacity(1024));
        reader
            .read_to_end(&mut plain)
            .map_err(|error| error.to_string())?;
        Ok(plain)
    }
}

fn in_words(why: &NotAShare) -> String {
    format!("no whole share: {why}")
}

/// Lines from standard input, byte by byte: a buffer of the standard library's would keep them.
struct Typed {
    is_terminal: bool,
    /// How the terminal was, to be put back.
    before: Option<Termios>,
}

impl Typed {
    fn new(echo: bool) -> Self {
        let is_terminal = stdin().is_terminal();
        let mut before = None;
        if is_terminal
            && !echo
            && let Ok(was) = tcgetattr(stdin().as_fd())
        {
            let mut hidden = was.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            if tcsetattr(stdin().as_fd(), OptionalActions::Now, &hidden).is_ok() {
                before = Some(was);
            }
        }
        Self {
            is_terminal,
            before,
        }
    }

    fn line(&mut self) -> io::Result<Option<Zeroizing<String>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        loop {
            let mut byte = [0];
            let got = loop {
                match rustix::io::read(stdin().as_fd(), &mut byte) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other?,
                }
            };
            if got == 0 && bytes.is_empty() {
                return Ok(None);
            }
            if got == 0 || byte[0] == b'\n' {
                let line = String::from_utf8_lossy(&bytes).into_owned();
                return Ok(Some(Zeroizing::new(line)));
            }
            bytes.push(byte[0]);
        }
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // What cannot be put back is the user's to see.
            let _ = tcsetattr(stdin().as_fd(), OptionalActions::Now, before);
        }
    }
}
