use super::*;
use crate::hash::row_hash;
use crate::kmeans::tally::{BadRow, Isa, Tally};
use crate::rows::distances::squared_distance;

/// What a tally takes depends neither on the instruction set it is compiled for, nor on whether rows go centroid by
/// centroid, as many of 6 centroids do, or in order, as few of 30 do.
#[test]
fn tallies_agree_to_the_last_bit() {
    let types = [(1, Dtype::F32), (16, Dtype::F16), (37, Dtype::BF16), (37, Dtype::F16), (51, Dtype::I8)];
    for ((dim, dtype), k) in types.into_iter().flat_map(|of| [(of, 6), (of, 30)]) {
        let (x, c, offset) = (data(40, dim, 5, 1), data(k, dim, 3, 2), data(1, dim, 1, 3));
        let stored = Stored::new(&x, dim, dtype);
        let labels: Vec<u32> = (0..40).map(|i| (row_hash(4, i) % k as u64) as u32).collect();
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

/// Of rows that are not finite the first is named, whichever centroid it goes to.
#[test]
fn the_first_bad_row_is_named() {
    for k in [2, 20] {
        let (mut x, c) = (data(20, 3, 5, 1), data(k, 3, 3, 2));
        let labels: Vec<u32> = (0..20).map(|i| u32::from(i < 10)).collect();
        (x[7 * 3 + 1], x[15 * 3]) = (f32::NAN, f32::INFINITY);
        let rows = Rows::new(Dtype::F32, 3, cast_slice(&x), &[]).unwrap();
        let (mut tally, mut sums) = (Tally::new(None), vec![0f32; c.len()]);
        assert_eq!(tally.add(rows, &labels, &c, &[0.0; 3], &mut sums), Err(BadRow(7)));
        assert_eq!(tally.measure(rows, &labels, &c), Err(BadRow(7)));
    }
}
