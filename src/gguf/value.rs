//! Metadata values.

use serde_json::{Value as Json, json};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

macro_rules! each {
    ($self:expr, $v:ident => $body:expr) => {
        match $self {
            Array::U8($v) => $body,
            Array::I8($v) => $body,
            Array::U16($v) => $body,
            Array::I16($v) => $body,
            Array::U32($v) => $body,
            Array::I32($v) => $body,
            Array::F32($v) => $body,
            Array::Bool($v) => $body,
            Array::String($v) => $body,
            Array::Array($v) => $body,
            Array::U64($v) => $body,
            Array::I64($v) => $body,
            Array::F64($v) => $body,
        }
    };
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn to_json(&self) -> Json {
        match self {
            Self::Array(v) => v.iter().map(Self::to_json).collect(),
            Self::U8(v) => json!(v),
            Self::I8(v) => json!(v),
            Self::U16(v) => json!(v),
            Self::I16(v) => json!(v),
            Self::U32(v) => json!(v),
            Self::I32(v) => json!(v),
            Self::F32(v) => json!(v),
            Self::Bool(v) => json!(v),
            Self::String(v) => json!(v),
            Self::U64(v) => json!(v),
            Self::I64(v) => json!(v),
            Self::F64(v) => json!(v),
        }
    }
}

impl Value {
    /// As JSON; numbers that JSON has not (NaN, infinity) become null.
    pub fn to_json(&self) -> Json {
        match self {
            Self::U8(x) => json!(x),
            Self::I8(x) => json!(x),
            Self::U16(x) => json!(x),
            Self::I16(x) => json!(x),
            Self::U32(x) => json!(x),
            Self::I32(x) => json!(x),
            Self::F32(x) => json!(x),
            Self::Bool(x) => json!(x),
            Self::String(x) => json!(x),
            Self::Array(x) => x.to_json(),
            Self::U64(x) => json!(x),
            Self::I64(x) => json!(x),
            Self::F64(x) => json!(x),
        }
    }

    /// One line for people: long strings and arrays are cut.
    pub fn summary(&self) -> String {
        match self {
            Self::String(s) if s.chars().count() > 60 => format!("{:?}…", s.chars().take(60).collect::<String>()),
            Self::Array(a) if a.len() > 6 => format!("{} elements", a.len()),
            other => other.to_json().to_string(),
        }
    }

    /// An unsigned number, from any integer type that holds one.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }
}
