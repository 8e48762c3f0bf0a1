//! What records will weigh when they are written, before anybody writes them.

use std::collections::BTreeMap;
use std::fmt;

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

/// What a log takes for a record beside its key and value, about.
const RECORD_BYTES: usize = 12;

/// Records changed since the last drain, each counted once, as it is now.
#[derive(Debug)]
pub(crate) struct Touched<K> {
    records: BTreeMap<K, usize>,
    bytes: usize,
}

impl<K> Default for Touched<K> {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<K: Ord> Touched<K> {
    /// The record has changed: key and value take so many bytes now.
    pub(crate) fn set(&mut self, key: K, bytes: usize) {
        let bytes = bytes + RECORD_BYTES;
        let before = self.records.insert(key, bytes).unwrap_or(0);
        self.bytes = self.bytes + bytes - before;
    }

    /// About how many bytes the records have.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The records, in order of key; none is touched any more.
    pub(crate) fn drain(&mut self) -> Vec<K> {
        self.bytes = 0;
        std::mem::take(&mut self.records).into_keys().collect()
    }
}

/// About how many bytes a part of the state takes in a compact format: a number as many as it needs, a
/// text its own and one more, a field's name none. This crate knows no format; the caller's is such a
/// one.
pub(crate) fn weight(value: &impl Serialize) -> usize {
    let mut scale = Scale(0);
    value
        .serialize(&mut scale)
        .expect("a scale refuses nothing");
    scale.0
}

struct Scale(usize);

impl Scale {
    fn bytes(&mut self, bytes: usize) -> Result<(), fmt::Error> {
        self.0 += bytes;
        Ok(())
    }

    /// Seven bits a byte.
    fn number(&mut self, number: u128) -> Result<(), fmt::Error> {
        let bits = u128::BITS - (number | 1).leading_zeros();
        self.bytes(bits.div_ceil(7) as usize)
    }

    /// Small ones of either sign are short.
    fn signed(&mut self, number: i128) -> Result<(), fmt::Error> {
        self.number(number.unsigned_abs().saturating_mul(2))
    }
}

macro_rules! numbers {
    ($($name:ident $type:ty => $of:ident),*) => {
        $(fn $name(self, number: $type) -> Result<(), fmt::Error> {
            self.$of(number.into())
        })*
    };
}

impl<'s> Serializer for &'s mut Scale {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = &'s mut Scale;
    type SerializeTuple = &'s mut Scale;
    type SerializeTupleStruct = &'s mut Scale;
    type SerializeTupleVariant = &'s mut Scale;
    type SerializeMap = &'s mut Scale;
    type SerializeStruct = &'s mut Scale;
    type SerializeStructVariant = &'s mut Scale;

    numbers!(
        serialize_i8 i8 => signed, serialize_i16 i16 => signed, serialize_i32 i32 => signed,
        serialize_i64 i64 => signed, serialize_i128 i128 => signed,
        serialize_u8 u8 => number, serialize_u16 u16 => number, serialize_u32 u32 => number,
        serialize_u64 u64 => number, serialize_u128 u128 => number
    );

    fn serialize_bool(self, _: bool) -> Result<(), fmt::Error> {
        self.bytes(1)
    }

    fn serialize_f32(self, _: f32) -> Result<(), fmt::Error> {
        self.bytes(4)
    }

    fn serialize_f64(self, _: f64) -> Result<(), fmt::Error> {
        self.bytes(8)
    }

    fn serialize_char(self, _: char) -> Result<(), fmt::Error> {
        self.bytes(4)
    }

    fn serialize_str(self, text: &str) -> Result<(), fmt::Error> {
        self.bytes(1 + text.len())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), fmt::Error> {
        self.bytes(1 + bytes.len())
    }

    fn serialize_none(self) -> Result<(), fmt::Error> {
        self.bytes(1)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), fmt::Error> {
        self.0 += 1;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), fmt::Error> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), fmt::Error> {
        self.bytes(1)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        self.0 += 1;
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        self.0 += 1;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, fmt::Error> {
        self.0 += 1;
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        self.0 += 1;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, fmt::Error> {
        self.0 += 1;
        Ok(self)
    }
}

macro_rules! parts {
    ($($trait:ident $part:ident),*) => {
        $(impl $trait for &mut Scale {
            type Ok = ();
            type Error = fmt::Error;

            fn $part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), fmt::Error> {
                Ok(())
            }
        })*
    };
}

parts!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl $trait for &mut Scale {
            type Ok = ();
            type Error = fmt::Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Result<(), fmt::Error> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), fmt::Error> {
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for &mut Scale {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), fmt::Error> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), fmt::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_touched_again_counts_once_and_as_it_is_now() {
        let mut touched = Touched::default();
        for bytes in (1..1_000).chain([50]) {
            touched.set("a", bytes);
        }
        assert_eq!(touched.bytes(), 50 + RECORD_BYTES);
        touched.set("b", 8);
        assert_eq!(touched.bytes(), 58 + 2 * RECORD_BYTES);
        assert_eq!(touched.drain(), ["a", "b"]);
        assert_eq!((touched.bytes(), touched.drain().len()), (0, 0));
    }

    #[test]
    fn numbers_weigh_what_they_need() {
        for (number, bytes) in [(0, 1), (63, 1), (64, 2), (-64, 2), (i64::MAX, 10)] {
            assert_eq!(weight(&number), bytes, "{number}");
        }
        assert_eq!(weight(&(127u64, 128u64, "abc", Some(true))), 1 + 2 + 4 + 2);
        assert_eq!(weight(&vec![1u32; 9]), 10);
    }
}
