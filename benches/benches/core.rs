//! `cargo bench -p colcrypt-bench`: the core alone, without a server. What is left of a value's cost is PostgreSQL's.

use std::hint::black_box;

use colcrypt_bench::{Path, SIZES};
use colcrypt_core::{DataCipher, DataKey, Suite, compression::Method, jsonb};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn values(criterion: &mut Criterion) {
    for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
        let mut group = criterion.benchmark_group(suite.name());
        for size in SIZES {
            let mut path = Path::new(suite, size);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new("seal", size), |bencher| {
                bencher.iter(|| path.seal());
            });
            group.bench_function(BenchmarkId::new("open", size), |bencher| {
                bencher.iter(|| path.open());
            });
        }
        group.finish();
    }
}

fn steps(criterion: &mut Criterion) {
    let path = Path::new(Suite::Aes256Gcm, 16);
    criterion.bench_function("parse a header", |bencher| bencher.iter(|| path.parse()));
    for suite in [Suite::Aes256Gcm, Suite::Xaes256Gcm] {
        let key = DataKey::generate().expect("random bytes");
        criterion.bench_function(&format!("expand a key, {}", suite.name()), |bencher| {
            bencher.iter(|| DataCipher::new(suite, black_box(&key)));
        });
    }
}

fn forms(criterion: &mut Criterion) {
    let text = include_str!("../../docs/security.md").as_bytes();
    let mut group = criterion.benchmark_group("compression");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("pack English text", |bencher| {
        bencher.iter(|| Method::Lz4.pack(black_box(text)));
    });
    group.finish();
    // {"n": 7}
    let stored = [
        &0x2000_0001u32.to_le_bytes()[..],
        &0x8000_0001u32.to_le_bytes(),
        &(0x1000_0000u32 | 11).to_le_bytes(),
        b"n\0\0\0",
        &(8u32 << 2).to_le_bytes(),
        &0x8000u16.to_le_bytes(),
        &7u16.to_le_bytes(),
    ]
    .concat();
    assert_eq!(
        jsonb::to_json(&stored, || ()).expect("a jsonb").as_str(),
        "{\"n\": 7}"
    );
    criterion.bench_function("read a stored jsonb", |bencher| {
        bencher.iter(|| jsonb::to_json(black_box(&stored), || ()));
    });
}

criterion_group!(benches, values, steps, forms);
criterion_main!(benches);
