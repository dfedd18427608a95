//! Tests that `cargo pgrx test` runs inside a server.

#[cfg(test)]
pub fn setup(_options: Vec<&str>) {}

#[cfg(test)]
#[must_use]
pub fn postgresql_conf_options() -> Vec<&'static str> {
    vec!["shared_preload_libraries = 'colcrypt'"]
}
