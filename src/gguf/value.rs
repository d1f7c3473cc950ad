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
    /// A string that is not UTF-8.
    Bytes(Vec<u8>),
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
    /// Strings that are not all UTF-8.
    Bytes(Vec<Vec<u8>>),
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
            Array::Bytes($v) => $body,
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

    /// The one value that all elements have, if there is one and it is no array.
    pub fn uniform(&self) -> Option<Value> {
        fn one<T: PartialEq + Clone>(v: &[T], value: impl Fn(T) -> Value) -> Option<Value> {
            let first = v.first()?;
            v.iter().all(|x| x == first).then(|| value(first.clone()))
        }
        match self {
            Self::U8(v) => one(v, Value::U8),
            Self::I8(v) => one(v, Value::I8),
            Self::U16(v) => one(v, Value::U16),
            Self::I16(v) => one(v, Value::I16),
            Self::U32(v) => one(v, Value::U32),
            Self::I32(v) => one(v, Value::I32),
            Self::F32(v) => one(v, Value::F32),
            Self::Bool(v) => one(v, Value::Bool),
            Self::String(v) => one(v, Value::String),
            Self::Bytes(v) => one(v, Value::Bytes),
            Self::U64(v) => one(v, Value::U64),
            Self::I64(v) => one(v, Value::I64),
            Self::F64(v) => one(v, Value::F64),
            Self::Array(_) => None,
        }
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
            Self::Bytes(v) => v.iter().map(|s| json!(String::from_utf8_lossy(s))).collect(),
            Self::U64(v) => json!(v),
            Self::I64(v) => json!(v),
            Self::F64(v) => json!(v),
        }
    }
}

impl Value {
    /// As JSON; numbers that JSON has not (NaN, infinity) become null, bytes that are no UTF-8 U+FFFD.
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
            Self::Bytes(x) => json!(String::from_utf8_lossy(x)),
            Self::Array(x) => x.to_json(),
            Self::U64(x) => json!(x),
            Self::I64(x) => json!(x),
            Self::F64(x) => json!(x),
        }
    }

    /// One line for people: long strings and arrays are cut.
    pub fn summary(&self) -> String {
        match self {
            Self::String(s) if s.chars().nth(60).is_some() => {
                format!("{:?}…", s.chars().take(60).collect::<String>())
            }
            Self::Bytes(s) => Self::String(String::from_utf8_lossy(s).into_owned()).summary(),
            Self::Array(a) if a.len() > 6 => format!("{} elements", a.len()),
            other => other.to_json().to_string(),
        }
    }

    /// A number, from any type that is one or an array of equal ones.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::U8(x) => Some(f64::from(*x)),
            Self::U16(x) => Some(f64::from(*x)),
            Self::U32(x) => Some(f64::from(*x)),
            Self::U64(x) => Some(*x as f64),
            Self::I8(x) => Some(f64::from(*x)),
            Self::I16(x) => Some(f64::from(*x)),
            Self::I32(x) => Some(f64::from(*x)),
            Self::I64(x) => Some(*x as f64),
            Self::F32(x) => Some(f64::from(*x)),
            Self::F64(x) => Some(*x),
            Self::Array(array) => array.uniform()?.as_f64(),
            Self::Bool(_) | Self::String(_) | Self::Bytes(_) => None,
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
