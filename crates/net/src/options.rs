//! Lists of options as a command line has them: `tap=tap0,queues=2,ro`.

use std::fmt::Display;
use std::str::FromStr;

/// A list of `key=value` and of words, with commas in between. A comma that belongs to a value is written twice.
///
/// Take what is known, then [`finish`](Self::finish).
#[derive(Clone, Debug)]
pub struct Options {
    items: Vec<(String, Option<String>)>,
}

/// The list is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionsError {
    /// Nothing between two commas.
    #[error(
        "{0:?} has an empty option; leave out the comma (one that belongs to a value is written twice: `,,`)"
    )]
    Empty(String),
    /// Said twice.
    #[error("{0} is given twice; leave one of them out")]
    Twice(String),
    /// It stands alone.
    #[error("{0} needs a value: {0}=…")]
    NoValue(String),
    /// It does not stand alone.
    #[error("{0} takes no value; leave out the = and what follows")]
    Value(String),
    /// The value does not fit the key.
    #[error("{key}: {cause}")]
    Bad {
        /// The key.
        key: String,
        /// What is wrong with its value.
        cause: String,
    },
    /// Nobody knows it.
    #[error("there is no option {key:?} here; there is: {known}")]
    Unknown {
        /// What was given.
        key: String,
        /// What could have been.
        known: String,
    },
}

impl Options {
    /// Splits a list.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let mut items: Vec<(String, Option<String>)> = vec![];
        for item in split(text) {
            let (key, value) = match item.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (item, None),
            };
            if key.is_empty() {
                return Err(OptionsError::Empty(text.to_owned()));
            }
            items.push((key, value));
        }
        Ok(Self { items })
    }

    /// The value of `key`, if that is there.
    pub fn value(&mut self, key: &str) -> Result<Option<String>, OptionsError> {
        match self.remove(key)? {
            Some(None) => Err(OptionsError::NoValue(key.to_owned())),
            Some(value) => Ok(value),
            None => Ok(None),
        }
    }

    /// The value of `key`, parsed.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Option<T>, OptionsError> {
        let value = self.value(key)?;
        let parsed = value.map(|v| v.parse()).transpose();
        parsed.map_err(|e: T::Err| OptionsError::bad(key, e))
    }

    /// The values of `key`, which may be there any number of times, parsed.
    pub fn all<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<Vec<T>, OptionsError> {
        let (found, others): (Vec<_>, Vec<_>) = self.items.drain(..).partition(|(k, _)| k == key);
        self.items = others;
        let parsed = found.into_iter().map(|(_, value)| match value {
            None => Err(OptionsError::NoValue(key.to_owned())),
            Some(value) => value.parse().map_err(|e: T::Err| OptionsError::bad(key, e)),
        });
        parsed.collect()
    }

    /// Whether a word is there.
    pub fn word(&mut self, key: &str) -> Result<bool, OptionsError> {
        match self.remove(key)? {
            Some(Some(_)) => Err(OptionsError::Value(key.to_owned())),
            found => Ok(found.is_some()),
        }
    }

    /// Makes sure that all has been taken. The error names what there is.
    pub fn finish(self, known: &[&str]) -> Result<(), OptionsError> {
        match self.items.into_iter().next() {
            None => Ok(()),
            Some((key, _)) => Err(OptionsError::Unknown {
                key,
                known: known.join(", "),
            }),
        }
    }

    /// What may be there once at most.
    fn remove(&mut self, key: &str) -> Result<Option<Option<String>>, OptionsError> {
        let Some(at) = self.items.iter().position(|(k, _)| k == key) else {
            return Ok(None);
        };
        let (_, value) = self.items.remove(at);
        match self.items.iter().any(|(k, _)| k == key) {
            true => Err(OptionsError::Twice(key.to_owned())),
            false => Ok(Some(value)),
        }
    }
}

impl OptionsError {
    /// What is wrong with the value of `key`.
    pub fn bad(key: &str, cause: impl Display) -> Self {
        Self::Bad {
            key: key.to_owned(),
            cause: cause.to_string(),
        }
    }
}

/// A value as it is written in a list.
pub fn quoted(value: &str) -> String {
    value.replace(',', ",,")
}

/// At single commas, with double ones made single.
fn split(text: &str) -> Vec<String> {
    let (mut items, mut chars) = (vec![String::new()], text.chars().peekable());
    while let Some(c) = chars.next() {
        if c != ',' || chars.next_if_eq(&',').is_some() {
            items.last_mut().expect("never empty").push(c);
        } else {
            items.push(String::new());
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_are_taken_apart() {
        let mut options = Options::parse("path=/a,,b=c,ro,size=5").unwrap();
        assert_eq!(options.value("path").unwrap().unwrap(), "/a,b=c");
        assert!(options.word("ro").unwrap());
        assert!(!options.word("ro").unwrap());
        assert_eq!(options.parsed::<u16>("size").unwrap(), Some(5));
        assert_eq!(options.parsed::<u16>("size").unwrap(), None);
        options.finish(&[]).unwrap();
        let mut options = Options::parse("a=1,b,a=2").unwrap();
        assert_eq!(options.all::<u8>("a").unwrap(), [1, 2]);
        assert!(options.all::<u8>("a").unwrap().is_empty());
        assert!(options.word("b").unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |text: &str| Options::parse(text).unwrap();
        let error = |e: OptionsError| e.to_string();
        for text in ["", "a,", ",a", "a,b,,,", "=1"] {
            let error = error(Options::parse(text).unwrap_err());
            assert!(error.contains("empty option"), "{text}: {error}");
        }
        assert_eq!(
            error(parse("a=1,b,a=2").value("a").unwrap_err()),
            "a is given twice; leave one of them out"
        );
        assert!(error(parse("a").value("a").unwrap_err()).contains("a=…"));
        assert!(error(parse("a=1").word("a").unwrap_err()).contains("no value"));
        assert!(error(parse("a=x").parsed::<u16>("a").unwrap_err()).starts_with("a: "));
        assert_eq!(
            error(parse("c=1").finish(&["a", "b"]).unwrap_err()),
            "there is no option \"c\" here; there is: a, b"
        );
    }

    proptest! {
        #[test]
        fn values_survive(values in prop::collection::vec("[a,=]{1,6}", 1..4)) {
            let items: Vec<_> = values.iter().enumerate().map(|(n, v)| format!("k{n}={}", quoted(v))).collect();
            let mut options = Options::parse(&items.join(",")).unwrap();
            for (n, value) in values.iter().enumerate() {
                prop_assert_eq!(&options.value(&format!("k{n}")).unwrap().unwrap(), value);
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-c=,]{0,20}") {
            let _ = Options::parse(&text);
        }
    }
}
