//! From text to a [`Cluster`].

use std::path::Path;

use super::{Cluster, ConfigError, Problem};

impl Cluster {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file),
            Err(error) => Err(unreadable(file, &error)),
        }
    }

    /// Checks the text of a configuration file; `file` is its name in messages.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let problem = Problem {
                key: String::new(),
                place: None,
                what: error.message().to_owned(),
                remedy: "correct it".to_owned(),
            };
            ConfigError { file: file.to_owned(), problems: vec![problem] }
        })
    }
}

fn unreadable(file: String, error: &std::io::Error) -> ConfigError {
    let problem = Problem {
        key: String::new(),
        place: None,
        what: format!("cannot be read ({error})"),
        remedy: "name the cluster's configuration with --config FILE".to_owned(),
    };
    ConfigError { file, problems: vec![problem] }
}
