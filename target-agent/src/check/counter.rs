//! When a check's results make a target go up or down: pure counting.

/// Counts results in a row, as load balancers do.
///
/// The first result decides alone: a service that answers is not kept waiting, and one that does not
/// never gets traffic. From then on `fall` failures in a row take the target down, and `rise`
/// successes in a row bring it back.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    rise: u32,
    fall: u32,
    up: Option<bool>,
    /// Results in a row that contradict `up`.
    against: u32,
}

impl Counter {
    /// A counter without a result yet; 0 counts as 1.
    pub(crate) fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), up: None, against: 0 }
    }

    /// Takes in a result. The new state, if it changed.
    pub(crate) fn record(&mut self, success: bool) -> Option<bool> {
        if self.up == Some(success) {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match self.up {
            None => 1,
            Some(true) => self.fall,
            Some(false) => self.rise,
        };
        if self.against < enough {
            return None;
        }
        self.against = 0;
        self.up = Some(success);
        self.up
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_failures_take_down_and_two_successes_bring_back() {
        let mut counter = Counter::new(2, 3);
        let results = [true, false, false, true, false, false, false, true, false, true, true];
        let changes: Vec<_> = results.map(|result| counter.record(result)).into();
        let mut expected = vec![None; results.len()];
        expected[0] = Some(true);
        expected[6] = Some(false);
        expected[10] = Some(true);
        assert_eq!(changes, expected);
    }

    proptest! {
        #[test]
        fn a_change_always_ends_a_row_of_equal_results_long_enough(
            rise in 0_u32..5, fall in 0_u32..5, results in prop::collection::vec(any::<bool>(), 1..200),
        ) {
            let mut counter = Counter::new(rise, fall);
            let mut state = None;
            for (index, &result) in results.iter().enumerate() {
                let Some(up) = counter.record(result) else { continue };
                prop_assert_eq!(up, result);
                prop_assert_ne!(state, Some(up));
                let needed = match state {
                    None => 1,
                    Some(_) => if up { rise.max(1) } else { fall.max(1) },
                } as usize;
                prop_assert!(results[index + 1 - needed..=index].iter().all(|&r| r == up));
                state = Some(up);
            }
            prop_assert_eq!(state.is_some(), true);
        }

        #[test]
        fn a_row_long_enough_always_decides(
            rise in 1_u32..5, fall in 1_u32..5,
            before in prop::collection::vec(any::<bool>(), 0..50), last: bool,
        ) {
            let mut counter = Counter::new(rise, fall);
            for result in before {
                counter.record(result);
            }
            for _ in 0..rise.max(fall) {
                counter.record(last);
            }
            prop_assert_eq!(counter.up, Some(last));
        }
    }
}
