// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Collects the Rust examples of README.md, ARCHITECTURE.md and docs/, so that
//! they are compiled as documentation tests.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = root.join("docs");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", docs.display());
    let mut files = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    for entry in fs::read_dir(docs)? {
        files.push(entry?.path());
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "md"));
    files.sort();
    let mut examples = String::new();
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let text = fs::read_to_string(file)?;
        examples += &rust_blocks(file, &text)?;
    }
    let to = PathBuf::from(std::env::var("OUT_DIR")?).join("examples.md");
    Ok(fs::write(to, examples)?)
}

/// The fenced Rust blocks. A block that would not be compiled is an error.
fn rust_blocks(file: &Path, text: &str) -> Result<String, String> {
    let mut blocks = format!("From {}:\n", file.display());
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let is_rust = line.starts_with("```rust");
        if is_rust && (line.contains("ignore") || line.contains("compile_fail")) {
            let (file, line) = (file.display(), number + 1);
            return Err(format!("{file}:{line}: an example that is not compiled"));
        }
        if inside || is_rust {
            blocks += &format!("{line}\n");
        }
        inside = is_rust || inside && !line.starts_with("```");
    }
    Ok(blocks)
}
