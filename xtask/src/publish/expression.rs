// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SPDX licence expressions: whether a choice of allowed licences satisfies one.
//!
//! `AND` binds more tightly than `OR`. `WITH` adds an exception to a licence; the
//! pair has to be allowed as a whole. Older manifests write `/` for `OR`.

/// Whether `allowed` satisfies the expression.
///
/// # Errors
/// It is not an expression.
pub fn is_satisfied(expression: &str, allowed: &[&str]) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    words.reverse();
    let result = any(&mut words, allowed);
    match (result, words.is_empty()) {
        (Some(satisfied), true) => Ok(satisfied),
        _ => Err(format!("`{expression}` is no SPDX expression")),
    }
}

/// Alternatives. The words are in reverse order.
fn any(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut satisfied = all(words, allowed)?;
    while words.pop_if(|word| *word == "OR").is_some() {
        satisfied |= all(words, allowed)?;
    }
    Some(satisfied)
}

/// Licences that all apply.
fn all(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    let mut satisfied = one(words, allowed)?;
    while words.pop_if(|word| *word == "AND").is_some() {
        satisfied &= one(words, allowed)?;
    }
    Some(satisfied)
}

/// A licence, or an expression in parentheses.
fn one(words: &mut Vec<&str>, allowed: &[&str]) -> Option<bool> {
    match words.pop()? {
        "(" => {
            let satisfied = any(words, allowed)?;
            (words.pop()? == ")").then_some(satisfied)
        }
        "OR" | "AND" | "WITH" | ")" => None,
        licence => {
            let whole = match words.pop_if(|word| *word == "WITH") {
                Some(_) => format!("{licence} WITH {}", words.pop()?),
                None => licence.to_string(),
            };
            Some(allowed.contains(&whole.as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_satisfied;

    const ALLOWED: [&str; 3] = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"];

    #[test]
    fn one_allowed_alternative_is_enough() {
        let satisfied = |text| is_satisfied(text, &ALLOWED).unwrap();
        assert!(satisfied("MIT"));
        assert!(satisfied("GPL-2.0-only OR MIT"));
        assert!(satisfied("GPL-2.0-only/MIT"));
        assert!(!satisfied("GPL-2.0-only"));
        assert!(!satisfied("Apache-2.0"));
    }

    #[test]
    fn all_licences_of_a_conjunction_must_be_allowed() {
        let satisfied = |text| is_satisfied(text, &ALLOWED).unwrap();
        assert!(satisfied("MIT AND Zlib"));
        assert!(!satisfied("MIT AND Unicode-3.0"));
        assert!(satisfied("(GPL-2.0-only OR MIT) AND Zlib"));
        assert!(satisfied("Unicode-3.0 AND GPL-2.0-only OR MIT"));
        assert!(!satisfied("Unicode-3.0 AND (GPL-2.0-only OR MIT)"));
    }

    #[test]
    fn an_exception_belongs_to_its_licence() {
        let satisfied = |text| is_satisfied(text, &ALLOWED).unwrap();
        assert!(satisfied("Apache-2.0 WITH LLVM-exception"));
        assert!(!satisfied("Apache-2.0 WITH Other-exception"));
        assert!(!satisfied("MIT WITH LLVM-exception"));
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in [
            "", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT Zlib", "MIT WITH",
        ] {
            assert!(is_satisfied(text, &ALLOWED).is_err(), "{text}");
        }
    }
}
