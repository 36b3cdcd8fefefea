//! Latencies: an HDR histogram of nanoseconds, reported in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Times that were measured. Empty ones take no room.
#[derive(Clone, Debug, Default)]
pub struct Times {
    histogram: Option<Histogram<u64>>,
}

/// Percentiles in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many times were recorded.
    pub samples: u64,
    /// The smallest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// Half were at most this.
    pub p50: f64,
    /// 90 % were at most this.
    pub p90: f64,
    /// 99 % were at most this.
    pub p99: f64,
    /// 99.9 % were at most this.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

impl Times {
    /// Records one, in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        if self.histogram.is_none() {
            // Three significant digits up to an hour: both accepted by the constructor, or nothing is recorded.
            self.histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).ok();
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(nanoseconds);
        }
    }

    /// Takes in those of another thread.
    pub fn merge(&mut self, other: Self) {
        match (&mut self.histogram, other.histogram) {
            (Some(ours), Some(theirs)) => {
                // Same bounds: cannot fail.
                let _ = ours.add(theirs);
            }
            (None, theirs) => self.histogram = theirs,
            (Some(_), None) => {}
        }
    }

    /// The percentiles, if anything was recorded.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.histogram.as_ref()?;
        let micros = |nanoseconds: u64| (nanoseconds as f64 / 10.0).round() / 100.0;
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Some(Percentiles {
            samples: histogram.len(),
            min: micros(histogram.min()),
            mean: (histogram.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let (mut low, mut high) = (Times::default(), Times::default());
        assert_eq!(low.percentiles(), None);
        (1..=500).for_each(|n| low.record(n * 1000));
        (501..=1000).for_each(|n| high.record(n * 1000));
        low.merge(high);
        let found = low.percentiles().unwrap();
        assert_eq!(found.samples, 1000);
        assert!((found.p50 - 500.0).abs() < 1.0, "{found:?}");
        assert!((found.p99 - 990.0).abs() < 1.0, "{found:?}");
        assert!((found.max - 1000.0).abs() < 1.0, "{found:?}");
    }
}
