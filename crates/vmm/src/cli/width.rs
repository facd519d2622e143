// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The width of lines: the terminal's, or 80 columns.

use std::env;
use std::os::fd::AsFd;

use memory_map::text::WIDTH;
use rustix::termios::{isatty, tcgetwinsize};

/// Nothing can be laid out in fewer columns.
const LEAST: usize = 40;

/// The number of columns of an output.
///
/// A file or a pipe has 80, so that what it gets does not depend on where the program
/// was started. For a terminal, the variable `COLUMNS` precedes what the terminal says.
pub(super) fn of(output: impl AsFd) -> usize {
    if !isatty(&output) {
        return WIDTH;
    }
    let variable = env::var("COLUMNS").ok();
    let terminal = tcgetwinsize(&output).ok().map(|size| size.ws_col);
    columns(variable.as_deref(), terminal)
}

/// Terminals that do not know their size report 0.
fn columns(variable: Option<&str>, terminal: Option<u16>) -> usize {
    let variable = variable.and_then(|text| text.trim().parse().ok());
    let known = [variable, terminal.map(usize::from)];
    let known = known.into_iter().flatten().find(|&columns| columns > 0);
    known.map_or(WIDTH, |columns| columns.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn the_variable_precedes_the_terminal_and_80_columns_are_the_default() {
        assert_eq!(columns(Some("132"), Some(100)), 132);
        assert_eq!(columns(None, Some(100)), 100);
        assert_eq!(columns(Some("wide"), Some(100)), 100);
        assert_eq!(columns(Some("0"), Some(0)), 80);
        assert_eq!(columns(None, None), 80);
    }

    #[test]
    fn a_terminal_of_few_columns_has_forty() {
        assert_eq!(columns(None, Some(3)), 40);
    }
}
