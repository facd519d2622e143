// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits the memory of the TOML reader before it reads a file: it uses more than a
//! kilobyte for a table of five bytes.

use toml_parser::Source as Tokens;
use toml_parser::lexer::TokenKind;

use super::error::{MachineError, Source};
use super::limits::{Budget, MAX_DOTS, MAX_TABLES, MAX_VALUES};

/// Checks that a file does not have too many tables, arrays and values.
pub(super) fn check(source: &Source<'_>) -> Result<(), MachineError> {
    let mut tables = Budget::new(MAX_TABLES, "tables and arrays");
    let mut values = Budget::new(MAX_VALUES, "values");
    let dots = || Budget::new(MAX_DOTS, "dots in a key");
    let mut key = dots();
    // The two tokens before.
    let mut before = [TokenKind::Newline; 2];
    for token in Tokens::new(source.text).lex() {
        let kind = token.kind();
        let counted = match kind {
            // The second one of a `[[header]]`.
            TokenKind::LeftSquareBracket
                if before == [TokenKind::Newline, TokenKind::LeftSquareBracket] =>
            {
                Ok(())
            }
            // Each dot of a key is a table; numbers in these files have none.
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => tables.take(1),
            TokenKind::Dot => tables.take(1).and_then(|()| key.take(1)),
            TokenKind::Equals | TokenKind::Comma => values.take(1),
            _ => Ok(()),
        };
        // Nothing but names and blanks is between the dots of a key.
        if !matches!(
            kind,
            TokenKind::Dot
                | TokenKind::Whitespace
                | TokenKind::Atom
                | TokenKind::BasicString
                | TokenKind::LiteralString
        ) {
            key = dots();
        }
        counted.map_err(|problem| MachineError {
            line: Some(source.line(token.span().start())),
            ..MachineError::unreadable(source.file, problem)
        })?;
        before = [before[1], kind];
    }
    Ok(())
}
