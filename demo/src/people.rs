//! Customers who do not exist: names, e-mails, Belgian national numbers and IBANs whose checksums are right.

use crate::rng::Rng;

/// One customer as it goes into the tables; `None` is NULL.
#[derive(Clone, Debug, PartialEq)]
pub struct Customer {
    pub id: i64,
    pub name: String,
    pub email: Option<String>,
    pub national_id: Option<String>,
    pub iban: Option<String>,
    pub birth_date: Option<String>,
    pub salary: Option<String>,
    pub notes: Option<String>,
}

const FIRST: &[&str] = &[
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jakob",
    "Katarzyna",
    "Luca",
    "Marie",
    "Noah",
    "Olga",
    "Pablo",
    "Quentin",
    "Rosa",
    "Sofía",
    "Thijs",
    "Ursula",
    "Viktor",
    "Wiebke",
    "Xenia",
    "Yusuf",
    "Zoë",
    "Björn",
    "Chloé",
    "Dimitri",
    "Élodie",
    "Fatima",
    "Giulia",
    "Henrik",
    "Ivana",
    "João",
    "Kaito",
    "Leïla",
    "Małgorzata",
    "Nils",
    "Øyvind",
    "Priya",
    "Renée",
    "Søren",
    "Tomáš",
    "Wei",
    "Zsófia",
];

const LAST: &[&str] = &[
    "Andersson",
    "Becker",
    "Çelik",
    "De Vries",
    "Dubois",
    "Eriksen",
    "Fernández",
    "García",
    "Horváth",
    "Ivanova",
    "Janssens",
    "Kowalski",
    "Lindqvist",
    "Maes",
    "Müller",
    "Nakamura",
    "Novák",
    "O'Brien",
    "Papadopoulos",
    "Peeters",
    "Quiroga",
    "Rossi",
    "Schäfer",
    "Silva",
    "Tanaka",
    "Unger",
    "Van den Berg",
    "Wagner",
    "Wójcik",
    "Yılmaz",
    "Zimmermann",
    "Claes",
    "Moreau",
    "Nguyen",
    "Øst",
    "Patel",
    "Smith",
    "Lefèvre",
    "Haugen",
    "Virtanen",
];

const DOMAINS: &[&str] = &[
    "example.com",
    "example.org",
    "example.net",
    "mail.example.com",
    "post.example.org",
];

const SENTENCES: &[&str] = &[
    "Called about the invoice of last month.",
    "Prefers to be reached by e-mail in the morning.",
    "Moved house; the new address is confirmed.",
    "Asked for a higher card limit, to be reviewed in spring.",
    "Complaint about a late delivery, settled with a voucher.",
    "Speaks Dutch, French and a little German.",
    "Très satisfaite du service à l'agence de Liège.",
    "Möchte künftig nur noch elektronische Auszüge.",
    "Identity document checked; expires in three years.",
    "Account shared with the spouse since 2019.",
    "Left a note:\tcall back after 17:00\nbut never on Fridays.",
    "Path of the scan: C:\\scans\\customers\\contract.pdf",
    "Wants a mortgage offer for a flat in Ghent.",
    "Medical leave until further notice; be considerate.",
    "お客様は日本語での案内を希望。",
    "Sent flowers to the whole team 🌷.",
];

/// The customer with this number.
pub fn customer(seed: u64, id: i64) -> Customer {
    let mut rng = Rng::new(seed ^ id.unsigned_abs().wrapping_mul(0xD134_2543_DE82_EF95));
    let (first, last) = (rng.pick(FIRST), rng.pick(LAST));
    let (year, month, day) = (1938 + rng.below(69), 1 + rng.below(12), 1 + rng.below(28));
    let salary = salary(&mut rng);
    Customer {
        id,
        name: format!("{first} {last}"),
        email: missing(&mut rng, 3, 1, |rng| email(first, last, rng)),
        national_id: missing(&mut rng, 2, 1, |rng| national_number(year, month, day, rng)),
        iban: missing(&mut rng, 2, 1, iban),
        birth_date: (!rng.chance(2)).then(|| format!("{year:04}-{month:02}-{day:02}")),
        salary: (!rng.chance(5)).then_some(salary),
        notes: missing(&mut rng, 8, 6, |rng| notes(id, rng)),
    }
}

/// NULL in so many of 100, empty in so many.
fn missing(
    rng: &mut Rng,
    null: u64,
    empty: u64,
    value: impl FnOnce(&mut Rng) -> String,
) -> Option<String> {
    match rng.below(100) {
        dice if dice < null => None,
        dice if dice < null + empty => Some(String::new()),
        _ => Some(value(rng)),
    }
}

fn email(first: &str, last: &str, rng: &mut Rng) -> String {
    let plain = |name: &str| -> String {
        let letters = name
            .to_lowercase()
            .chars()
            .filter_map(fold)
            .collect::<String>();
        if letters.is_empty() {
            "kunde".to_owned()
        } else {
            letters
        }
    };
    let domain = rng.pick(DOMAINS);
    match rng.below(3) {
        0 => format!("{}.{}@{domain}", plain(first), plain(last)),
        1 => format!(
            "{}.{}{}@{domain}",
            plain(first),
            plain(last),
            rng.below(1000)
        ),
        _ => format!("{}{}@{domain}", &plain(first)[..1], plain(last)),
    }
}

fn fold(c: char) -> Option<char> {
    Some(match c {
        'a'..='z' => c,
        'á' | 'ä' | 'à' | 'ã' => 'a',
        'ç' | 'č' => 'c',
        'é' | 'è' | 'ë' => 'e',
        'í' | 'ı' | 'ï' => 'i',
        'ł' => 'l',
        'ó' | 'ö' | 'ø' => 'o',
        'š' => 's',
        'ü' => 'u',
        _ => return None,
    })
}

/// YYMMDD-SSS.CC: 97 minus the number modulo 97, with a 2 in front for those born since 2000.
fn national_number(year: u64, month: u64, day: u64, rng: &mut Rng) -> String {
    let serial = 1 + rng.below(997);
    let number = ((year % 100) * 10_000 + month * 100 + day) * 1000 + serial;
    let with_century = if year >= 2000 {
        2_000_000_000 + number
    } else {
        number
    };
    let check = 97 - with_century % 97;
    format!(
        "{:02}.{month:02}.{day:02}-{serial:03}.{check:02}",
        year % 100
    )
}

fn iban(rng: &mut Rng) -> String {
    let (country, account) = match rng.below(5) {
        0 => ("AT", rng.digits(16)),
        1 => ("CH", rng.digits(17)),
        2 => {
            // The last two digits of a Belgian account are the first ten modulo 97, with 97 for 0.
            let first = rng.digits(10);
            let check = match first.parse::<u64>().unwrap_or(0) % 97 {
                0 => 97,
                rest => rest,
            };
            ("BE", format!("{first}{check:02}"))
        }
        3 => (
            "NL",
            format!(
                "{}{}",
                rng.pick(&["ABNA", "INGB", "RABO", "TRIO"]),
                rng.digits(10)
            ),
        ),
        _ => ("DE", rng.digits(18)),
    };
    let check = 98 - iban_modulus(&format!("{account}{country}00"));
    format!("{country}{check:02}{account}")
}

/// ISO 7064: letters count as two digits, A = 10.
fn iban_modulus(rearranged: &str) -> u64 {
    rearranged.bytes().fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u64::from(byte - b'0')) % 97,
        _ => (rest * 100 + u64::from(byte - b'A') + 10) % 97,
    })
}

/// Many earn about the same, few earn much more.
fn salary(rng: &mut Rng) -> String {
    let mut cents = 180_000 + rng.below(250_000) + rng.below(250_000);
    while rng.chance(18) {
        cents = cents * 16 / 10;
    }
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Mostly a sentence or two, sometimes a page, and for one customer in 2,000 a correspondence of 100 kB.
fn notes(id: i64, rng: &mut Rng) -> String {
    if id % 2000 == 7 {
        let mut text = String::with_capacity(101_000);
        while text.len() < 100_000 {
            text.push_str(rng.pick(SENTENCES));
            // Numbers keep it from compressing to nothing.
            text.push_str(&format!(" [{:016x}]\n", rng.next()));
        }
        return text;
    }
    let count = match rng.below(100) {
        0..60 => 1 + rng.below(2),
        60..95 => 3 + rng.below(4),
        _ => 12 + rng.below(24),
    };
    (0..count)
        .map(|_| rng.pick(SENTENCES))
        .collect::<Vec<_>>()
        .join(" ")
}

impl Customer {
    /// Its line in COPY's text format.
    pub fn copy_line(&self, out: &mut String) {
        out.push_str(&self.id.to_string());
        let name = Some(self.name.clone());
        let fields = [
            &name,
            &self.email,
            &self.national_id,
            &self.iban,
            &self.birth_date,
            &self.salary,
            &self.notes,
        ];
        for field in fields {
            out.push('\t');
            match field {
                None => out.push_str("\\N"),
                Some(text) => escape(text, out),
            }
        }
        out.push('\n');
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right_and_nothing_varies() {
        for id in 1..20_000 {
            let someone = customer(1, id);
            assert_eq!(someone, customer(1, id));
            if let Some(iban) = someone.iban.filter(|iban| !iban.is_empty()) {
                assert_eq!(
                    iban_modulus(&format!("{}{}", &iban[4..], &iban[..4])),
                    1,
                    "{iban}"
                );
            }
            if let Some(email) = someone.email.filter(|email| !email.is_empty()) {
                assert!(
                    email.is_ascii() && email.contains('@') && !email.starts_with('.'),
                    "{email}"
                );
            }
        }
    }

    #[test]
    fn there_are_nulls_empty_strings_and_long_texts() {
        let all: Vec<_> = (1..10_000).map(|id| customer(1, id)).collect();
        assert!(
            all.iter().any(|c| c.notes.is_none())
                && all.iter().any(|c| c.notes.as_deref() == Some(""))
        );
        assert!(
            all.iter()
                .any(|c| c.notes.as_ref().is_some_and(|notes| notes.len() >= 100_000))
        );
        assert!(all.iter().any(|c| c.salary.is_none()) && all.iter().any(|c| c.iban.is_none()));
    }

    #[test]
    fn the_known_iban_example_checks() {
        assert_eq!(iban_modulus("370400440532013000DE89"), 1);
    }
}
