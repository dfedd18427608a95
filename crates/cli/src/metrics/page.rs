//! What `colcrypt.metrics` shows as a page that a monitoring system reads.

use std::collections::BTreeMap;
use std::fmt;

use postgres::Client;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::{MetricType, gauge::ConstGauge};
use prometheus_client::registry::{Registry, Unit};

use crate::connection::explain;
use crate::screen::printable;

/// Labels as two arrays, in one order: the program has no other use for JSON of the server's.
const SAMPLES: &str = "
    SELECT m.name, m.type, m.help, m.value,
           coalesce(array_agg(l.key ORDER BY l.key) FILTER (WHERE l.key IS NOT NULL), '{}'),
           coalesce(array_agg(l.value ORDER BY l.key) FILTER (WHERE l.key IS NOT NULL), '{}')
    FROM colcrypt.metrics m LEFT JOIN LATERAL jsonb_each_text(m.labels) l ON true
    GROUP BY m.name, m.type, m.help, m.value, m.labels";

const ONE: &str = "SELECT m.type, m.help FROM colcrypt.metric_names() m WHERE m.name = $1";

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Openmetrics,
    Prometheus,
}

impl Format {
    /// The newer one for who says that he reads it.
    pub fn accepted(header: &str) -> Self {
        if header.contains("application/openmetrics-text") {
            Self::Openmetrics
        } else {
            Self::Prometheus
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Openmetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

#[derive(Debug)]
struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

#[derive(Debug)]
struct Family {
    is_counter: bool,
    help: String,
    samples: Vec<Sample>,
}

/// All samples by the metric's name.
#[derive(Debug, Default)]
pub struct Page(BTreeMap<String, Family>);

impl Page {
    /// # Errors
    /// In words for people.
    pub fn of(client: &mut Client) -> Result<Self, String> {
        let mut page = Self::default();
        let rows = client
            .query(SAMPLES, &[])
            .map_err(|error| explain(&error))?;
        for row in &rows {
            let read = || -> Result<_, postgres::Error> {
                let (keys, values): (Vec<String>, Vec<String>) = (row.try_get(4)?, row.try_get(5)?);
                let family = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                Ok((
                    family,
                    row.try_get(3)?,
                    keys.into_iter().zip(values).collect(),
                ))
            };
            let (family, value, labels) = read().map_err(|error| explain(&error))?;
            page.add(family, value, labels)?;
        }
        Ok(page)
    }

    /// Adds what the program knows by itself, under a name that the server knows the meaning of.
    ///
    /// # Errors
    /// In words for people.
    pub fn tell(
        &mut self,
        client: &mut Client,
        name: &str,
        database: &str,
        value: f64,
    ) -> Result<(), String> {
        let row = client
            .query_one(ONE, &[&name])
            .map_err(|error| explain(&error))?;
        let read = || Ok::<_, postgres::Error>((name.to_owned(), row.try_get(0)?, row.try_get(1)?));
        let family = read().map_err(|error| explain(&error))?;
        self.add(family, value, vec![("database".into(), database.into())])
    }

    /// A family is its name, type and help.
    fn add(
        &mut self,
        (name, kind, help): (String, String, String),
        value: f64,
        labels: Vec<(String, String)>,
    ) -> Result<(), String> {
        // Values of labels are escaped; names cannot be.
        if let Some(wrong) = [&name]
            .into_iter()
            .chain(labels.iter().map(|(key, _)| key))
            .find(|name| !is_name(name))
        {
            return Err(format!(
                "{:?} is no name of a metric or label",
                printable(wrong)
            ));
        }
        let family = self.0.entry(name).or_insert_with(|| Family {
            is_counter: kind == "counter",
            help,
            samples: Vec::new(),
        });
        family.samples.push(Sample { labels, value });
        Ok(())
    }

    /// The page as text.
    ///
    /// # Errors
    /// None that is known of: it is written into memory.
    pub fn text(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        match format {
            Format::Openmetrics => text::encode(&mut text, &registry)?,
            Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for (name, family) in &self.0 {
            // The encoder puts back what is said of a name by its end.
            let (stem, kind) = match family.is_counter {
                true => (
                    name.strip_suffix("_total").unwrap_or(name),
                    MetricType::Counter,
                ),
                false => (name.as_str(), MetricType::Gauge),
            };
            let (stem, unit) = match stem.strip_suffix("_seconds") {
                Some(stem) => (stem, Some(Unit::Seconds)),
                None => (stem, None),
            };
            let mut metric = encoder.encode_descriptor(stem, &family.help, unit.as_ref(), kind)?;
            for sample in &family.samples {
                let mut one = metric.encode_family(&sample.labels)?;
                if family.is_counter {
                    one.encode_counter::<NoLabelSet, f64, u64>(&sample.value, None)?;
                } else {
                    ConstGauge::new(sample.value).encode(one)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let mut page = Page::default();
        let family = |name: &str, kind: &str| (name.to_owned(), kind.to_owned(), "Help".to_owned());
        let labels = |value: &str| vec![("key".to_owned(), value.to_owned())];
        page.add(family("a_total", "counter"), 3.0, labels("x\"y\\z\nw"))
            .unwrap();
        page.add(family("b_timestamp_seconds", "gauge"), 1.5, Vec::new())
            .unwrap();
        page.add(family("a_total", "counter"), 4.0, labels("plain"))
            .unwrap();
        page
    }

    #[test]
    fn a_page_of_openmetrics() {
        assert_eq!(
            page().text(Format::Openmetrics).unwrap(),
            "# HELP a Help\n# TYPE a counter\na_total{key=\"x\\\"y\\\\z\\nw\"} 3.0\na_total{key=\"plain\"} 4.0\n\
             # HELP b_timestamp_seconds Help\n# TYPE b_timestamp_seconds gauge\n# UNIT b_timestamp_seconds seconds\n\
             b_timestamp_seconds 1.5\n# EOF\n"
        );
    }

    #[test]
    fn a_page_for_those_who_read_the_older_format() {
        let text = page().text(Format::Prometheus).unwrap();
        assert!(
            text.contains("# TYPE a_total counter\na_total{key=\"x\\\"y\\\\z\\nw\"} 3"),
            "{text}"
        );
        assert!(!text.contains("EOF") && !text.contains("UNIT"), "{text}");
    }

    #[test]
    fn a_name_that_would_break_the_page_is_refused() {
        for (name, label) in [("a b", "key"), ("a", "k=\"1\"}\nz"), ("", "key")] {
            let family = (name.to_owned(), "gauge".to_owned(), String::new());
            assert!(
                Page::default()
                    .add(family, 0.0, vec![(label.into(), String::new())])
                    .is_err()
            );
        }
    }

    #[test]
    fn who_reads_openmetrics_is_given_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::Openmetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
    }
}
