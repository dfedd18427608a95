//! The demo: 200,000 customers are encrypted, read by two roles, rotated to a new key while a writer keeps working,
//! and compared value by value with the plaintext kept aside. Any difference ends it with an error.
//!
//! It works in a database of its own, `colcrypt_demo`, on the server that PGHOST and PGPORT name, and leaves it there
//! to look at.

mod encrypt;
mod people;
mod readers;
mod rng;
mod rotate;
mod setup;
mod ui;
mod verify;
mod writer;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use postgres::{Client, Config, NoTls};

use crate::ui::Ui;

/// What the demo makes everything in.
pub const DATABASE: &str = "colcrypt_demo";
pub const KEY: &str = "customer-pii";

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
struct Arguments {
    /// The root key file, made by `colcrypt keygen` and readable by the server's user
    #[arg(long)]
    root_key: PathBuf,
    /// How many customers
    #[arg(long, env = "COUNT", default_value_t = 200_000)]
    count: i64,
    /// Only 20,000 customers
    #[arg(long)]
    quick: bool,
    /// Another seed makes other customers
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A column that holds personal data.
pub struct Column {
    pub name: &'static str,
    pub plain_type: &'static str,
}

pub const COLUMNS: &[Column] = &[
    Column {
        name: "email",
        plain_type: "text",
    },
    Column {
        name: "national_id",
        plain_type: "text",
    },
    Column {
        name: "iban",
        plain_type: "text",
    },
    Column {
        name: "birth_date",
        plain_type: "date",
    },
    Column {
        name: "salary",
        plain_type: "numeric",
    },
    Column {
        name: "notes",
        plain_type: "text",
    },
];

impl Column {
    /// The label of its place.
    pub fn label(&self) -> String {
        format!("customers.{}", self.name)
    }

    /// The place that its values are bound to, as an SQL expression over the row.
    fn context(&self) -> String {
        format!("colcrypt.place_context('{}', id)", self.label())
    }

    /// SQL that encrypts a plaintext of this column. The context names `id`, so the row's must be in scope.
    pub fn encrypt(&self, value: &str) -> String {
        let context = self.context();
        format!("colcrypt.encrypt_col({value}, '{KEY}', {context})")
    }

    /// SQL that decrypts this column to its own type.
    pub fn decrypt(&self, value: &str) -> String {
        let as_type = if self.plain_type == "text" {
            String::new()
        } else {
            format!(", NULL::{}", self.plain_type)
        };
        let context = self.context();
        format!("colcrypt.decrypt_col({value}{as_type}, {context})")
    }
}

/// What the steps share and what the summary is made of.
pub struct Demo {
    pub ui: Ui,
    pub count: i64,
    pub seed: u64,
    pub root_key: PathBuf,
    pub summary: Vec<Vec<String>>,
}

impl Demo {
    /// A row of the summary.
    pub fn sum_up(&mut self, name: &str, value: impl Into<String>, detail: impl Into<String>) {
        self.summary
            .push(vec![name.to_owned(), value.into(), detail.into()]);
    }
}

/// Connects by the usual environment variables.
pub fn connect(database: &str, role: &str) -> Result<Client> {
    let host =
        std::env::var("PGHOST").map_err(|_| "PGHOST is not set: run this through `make demo`")?;
    let port = std::env::var("PGPORT").unwrap_or_else(|_| "5432".to_owned());
    let mut config = Config::new();
    config
        .host(&host)
        .port(port.parse()?)
        .user(role)
        .dbname(database)
        .application_name("colcrypt demo");
    Ok(config.connect(NoTls)?)
}

/// What went wrong, with the server's own words: the driver's Display hides them.
pub fn explain(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let hint = db
                .hint()
                .map(|hint| format!("\n   HINT:  {hint}"))
                .unwrap_or_default();
            let detail = db
                .detail()
                .map(|detail| format!("\n   DETAIL:  {detail}"))
                .unwrap_or_default();
            format!(
                "{}:  {} (SQLSTATE {}){detail}{hint}",
                db.severity(),
                db.message(),
                db.code().code()
            )
        }
        None => error.to_string(),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let began = Instant::now();
    let count = if arguments.quick {
        20_000
    } else {
        arguments.count
    };
    if count < 100 {
        return Err("at least 100 customers are needed".into());
    }
    let mut demo = Demo {
        ui: Ui::new(),
        count,
        seed: arguments.seed,
        root_key: arguments.root_key,
        summary: Vec::new(),
    };

    setup::database(&mut demo)?;
    let mut client = connect(DATABASE, "postgres")?;
    setup::customers(&mut demo, &mut client)?;
    setup::keys(&mut demo, &mut client)?;
    encrypt::columns(&mut demo, &mut client)?;
    readers::compare(&mut demo, &mut client)?;
    encrypt::rates(&mut demo, &mut client)?;
    rotate::under_load(&mut demo, &mut client)?;
    verify::everything(&mut demo, &mut client)?;

    demo.sum_up("in all", ui::seconds(began.elapsed()), "");
    let title = format!(
        "colcrypt · {} customers",
        ui::thousands(u64::try_from(count)?)
    );
    println!("\n{}", ui::framed(&title, &ui::summary(&demo.summary)));
    println!("\nLook around:  PGDATABASE={DATABASE} make run");
    Ok(())
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error
                .downcast_ref::<postgres::Error>()
                .map_or_else(|| error.to_string(), explain);
            eprintln!("\nthe demo failed: {text}");
            ExitCode::FAILURE
        }
    }
}
