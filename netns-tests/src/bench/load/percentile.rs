//! Exact percentiles: every sample is kept and sorted.

/// The sample that `hundredths` per cent of all samples do not exceed, by the
/// nearest-rank method; none of none.
///
/// `samples` must be sorted; `hundredths` is 1 to 100.
pub(super) fn percentile(samples: &[u64], hundredths: usize) -> Option<u64> {
    let rank = (samples.len() * hundredths).div_ceil(100);
    samples.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::percentile;

    #[test]
    fn percentiles_of_a_hundred_are_the_samples_of_that_rank() {
        let samples: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&samples, 50), Some(50));
        assert_eq!(percentile(&samples, 99), Some(99));
        assert_eq!(percentile(&samples, 100), Some(100));
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_has_none() {
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[7], 99), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    proptest! {
        #[test]
        fn enough_samples_do_not_exceed_a_percentile_and_one_fewer_rank_would_not_do(
            mut samples in prop::collection::vec(0_u64..1000, 1..200),
            hundredths in 1_usize..=100,
        ) {
            samples.sort_unstable();
            let value = percentile(&samples, hundredths).expect("there are samples");
            let within = samples.iter().filter(|sample| **sample <= value).count();
            let below = samples.iter().filter(|sample| **sample < value).count();
            prop_assert!(within * 100 >= samples.len() * hundredths);
            prop_assert!(below * 100 < samples.len() * hundredths);
        }
    }
}
