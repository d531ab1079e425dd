//! Makes a failing sequence short: takes steps out while it goes on failing.

/// The shortest sequence found in so many tries that still fails, by halves first and single steps
/// last.
pub fn shrink<T: Clone>(steps: &[T], most_tries: u32, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut left = steps.to_vec();
    let mut tries = 0;
    let mut size = left.len().div_ceil(2).max(1);
    loop {
        let before = left.len();
        let mut at = 0;
        while at < left.len() && tries < most_tries {
            let to = (at + size).min(left.len());
            let mut without = left.clone();
            without.drain(at..to);
            tries += 1;
            if fails(&without) {
                left = without;
            } else {
                at = to;
            }
        }
        if tries >= most_tries || size == 1 && left.len() == before {
            return left;
        }
        size = size.div_ceil(2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::steps;
    use super::*;
    use crate::dice::Dice;

    #[test]
    fn only_the_steps_that_matter_are_left() {
        let steps = steps(&mut Dice::new(1), 60);
        let (a, b) = (steps[7], steps[41]);
        let found = shrink(&steps, 2_000, |left| left.contains(&a) && left.contains(&b));
        assert_eq!(found, [a, b]);
    }
}
