use super::*;
use crate::kmeans::tally::{Isa, Tally};
use crate::rows::distances::squared_distance;

/// What a tally takes does not depend on the instruction set it is compiled for.
#[test]
fn tallies_agree_to_the_last_bit() {
    for (dim, dtype) in [(1, Dtype::F32), (16, Dtype::F16), (37, Dtype::BF16), (37, Dtype::F16), (51, Dtype::I8)] {
        let (x, c, offset) = (data(40, dim, 5, 1), data(6, dim, 3, 2), data(1, dim, 1, 3));
        let stored = Stored::new(&x, dim, dtype);
        let labels: Vec<u32> = (0..40).map(|i| i % 6).collect();
        let mut decoded = vec![0f32; x.len()];
        stored.rows().decode(&mut decoded);
        let mut expected = vec![0f32; c.len()];
        for (x, &label) in decoded.chunks(dim).zip(&labels) {
            let sums = expected[label as usize * dim..][..dim].iter_mut();
            sums.zip(x).zip(&offset).for_each(|((sum, x), offset)| *sum += x - offset);
        }
        let nearest =
            decoded.chunks(dim).zip(&labels).map(|(x, &l)| squared_distance(x, &c[l as usize * dim..][..dim]));
        let nearest: Vec<f32> = nearest.collect();
        for isa in Isa::available() {
            let (mut tally, mut sums) = (Tally::new(Some(isa)), vec![0f32; c.len()]);
            tally.add(stored.rows(), &labels, &c, &offset, &mut sums).unwrap();
            assert_eq!((&sums, &tally.distances), (&expected, &nearest), "{isa:?} {dtype:?}");
            tally.measure(stored.rows(), &labels, &c).unwrap();
            assert_eq!(&tally.distances, &nearest);
        }
    }
}
