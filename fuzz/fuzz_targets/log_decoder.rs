//! Frames and record batches from arbitrary bytes: decoding always ends in an answer, and what it
//! accepts can be read to the end.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use onhand_log::RecordBatch;
use onhand_log::journal::frame;

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(length) = frame::probe(&bytes) {
        assert!(length <= bytes.len());
    }
    read(bytes);
    // Random bytes hardly ever have the right checksum: with it, structure alone must hold.
    if input.len() >= 61 {
        let mut mended = input.to_vec();
        let length = u32::try_from(input.len() - 12).expect("fuzz inputs are small");
        mended[8..12].copy_from_slice(&length.to_be_bytes());
        mended[16] = 2;
        let crc = onhand_log::record::checksum(&mended).expect("there is a header");
        mended[17..21].copy_from_slice(&crc.to_be_bytes());
        read(Bytes::from(mended));
    }
});

fn read(bytes: Bytes) {
    if let Ok(batch) = RecordBatch::parse(bytes) {
        let mut last = batch.base_offset() - 1;
        for record in batch.records() {
            assert!(record.offset > last && record.offset < batch.next_offset());
            last = record.offset;
        }
        assert_eq!(batch.records().count(), batch.count());
    }
}
