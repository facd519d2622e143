// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Settings of the kernel for the time of one program.

use std::fs;

/// A file of the kernel and the value that a program needs.
pub type Setting = (&'static str, &'static str);

/// Writes the old values back when it is dropped, the last one first.
#[derive(Debug, Default)]
pub struct Settings {
    old: Vec<(&'static str, String)>,
}

impl Settings {
    /// Makes settings.
    ///
    /// # Errors
    /// A file cannot be read or written, or has another number afterwards: the
    /// kernel has fewer huge pages than it should reserve.
    pub fn make(settings: &[Setting]) -> Result<Self, String> {
        let mut made = Self::default();
        for (path, value) in settings {
            let read = || fs::read_to_string(path).map(|text| text.trim().to_string());
            let old = read().map_err(|e| format!("{path}: {e}"))?;
            made.old.push((path, old));
            fs::write(path, value).map_err(|e| format!("{path}: {value}: {e}"))?;
            let new = read().map_err(|e| format!("{path}: {e}"))?;
            if value.parse::<u64>().is_ok() && new != *value {
                return Err(format!("{path} is {new} after {value} was written"));
            }
        }
        Ok(made)
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, old) in self.old.drain(..).rev() {
            // A setting that stays can fail a later test, but not this one.
            if let Err(error) = fs::write(path, &old) {
                eprintln!("hw-tests: {path} cannot be set back to {old}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this content, whose path lives as long as a setting's.
    fn file(name: &str, content: &str) -> &'static str {
        let name = format!("settings-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, content).expect("written");
        path.to_string_lossy().into_owned().leak()
    }

    #[test]
    fn a_setting_ends_with_its_value_restored() {
        let path = file("restored", "3\n");
        let settings = Settings::make(&[(path, "48"), (path, "50")]).expect("made");
        assert_eq!(fs::read_to_string(path).expect("read"), "50");
        drop(settings);
        assert_eq!(fs::read_to_string(path).expect("read"), "3");
        fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_setting_that_cannot_be_made_restores_those_before_it() {
        let path = file("before", "off");
        let error = Settings::make(&[(path, "force"), ("/nowhere/at/all", "1")]);
        assert!(error.is_err_and(|why| why.contains("/nowhere/at/all")));
        assert_eq!(fs::read_to_string(path).expect("read"), "off");
        fs::remove_file(path).expect("removed");
    }
}
