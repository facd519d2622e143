// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Shrinks a sequence to a short one that still shows a mismatch.

use super::Mismatch;
use super::op::Op;

/// Removes operations that are not needed, larger parts first. Operations after
/// the mismatch are removed at once.
pub fn shrink(
    mut ops: Vec<Op>,
    mut mismatch: Mismatch,
    compare: impl Fn(&[Op]) -> Result<Option<Mismatch>, String>,
) -> Result<(Vec<Op>, Mismatch), String> {
    ops.truncate(mismatch.index + 1);
    let mut part = ops.len() / 2;
    while part > 0 {
        let mut start = 0;
        let mut left_out = false;
        while start < ops.len() {
            let end = ops.len().min(start + part);
            let fewer: Vec<Op> = [&ops[..start], &ops[end..]].concat();
            match compare(&fewer)? {
                Some(found) => {
                    ops = fewer;
                    ops.truncate(found.index + 1);
                    (mismatch, left_out) = (found, true);
                }
                None => start = end,
            }
        }
        // Removing one operation can make others unnecessary.
        if part > 1 || !left_out {
            part /= 2;
        }
    }
    Ok((ops, mismatch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::op::Answer;

    #[test]
    fn only_what_it_takes_is_left() {
        let ops: Vec<Op> = (0..100).map(Op::Close).collect();
        // Needs the operations 17 and 60, in this order.
        let compare = |ops: &[Op]| {
            let first = ops.iter().position(|op| *op == Op::Close(17));
            let last = ops.iter().position(|op| *op == Op::Close(60));
            let index = last.filter(|last| first.is_some_and(|first| first < *last));
            let answer = Answer::Done(Ok(()));
            Ok(index.map(|index| Mismatch {
                index,
                real: answer.clone(),
                simulated: answer.clone(),
            }))
        };
        let first = compare(&ops).unwrap().unwrap();
        let (ops, mismatch) = shrink(ops, first, compare).unwrap();
        assert_eq!(ops, [Op::Close(17), Op::Close(60)]);
        assert_eq!(mismatch.index, 1);
    }
}
