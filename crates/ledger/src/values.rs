//! The small value types: names and amounts that cannot be mistaken for each other.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::decision::Reason;

/// Milliseconds since 1970-01-01T00:00:00Z. Whether it is an event's time or log time, the field
/// that bears it says.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Time(pub i64);

impl Time {
    /// The time `ms` later, at the far end of time when it would be past it.
    #[must_use]
    pub fn plus(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// An amount in the smallest unit of its SKU. Arithmetic is checked: overflow is a
/// [`Reason`], never a wrap and never a panic.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Quantity(pub i64);

impl Quantity {
    /// 0, of any item.
    pub const ZERO: Self = Self(0);

    /// The sum; `None` where it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// This less `other`; `None` where it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The same amount the other way; `None` for the lowest one, which has no opposite.
    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }

    /// Whether it is exactly 0.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A quantity as it was sent: `mantissa` / 10^`decimals`. An integer has no decimals. Only the owner
/// of the SKU knows how many the item declares; [`Amount::to_units`] brings it there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Amount {
    /// All digits and the sign: 1.50 is 150 with two decimals.
    pub mantissa: i64,
    /// 0 to 6.
    pub decimals: u8,
}

impl Amount {
    /// An integer, as one without decimals is sent.
    pub fn whole(n: i64) -> Self {
        Self {
            mantissa: n,
            decimals: 0,
        }
    }

    /// In smallest units of an item with that many decimals; `None` when it is finer than the item
    /// allows or does not fit.
    pub fn to_units(self, item_decimals: u8) -> Option<Quantity> {
        self.units(item_decimals).ok()
    }

    /// In smallest units of an item with that many decimals.
    ///
    /// # Errors
    /// [`Reason::Decimals`] when it is finer than the item allows, [`Reason::Overflow`] when it does
    /// not fit.
    pub fn units(self, item_decimals: u8) -> Result<Quantity, Reason> {
        let (mut mantissa, mut decimals) = (self.mantissa, self.decimals);
        while decimals > item_decimals {
            if mantissa == 0 {
                break;
            }
            if mantissa % 10 != 0 {
                return Err(Reason::Decimals);
            }
            mantissa /= 10;
            decimals -= 1;
        }
        while decimals < item_decimals && mantissa != 0 {
            mantissa = mantissa.checked_mul(10).ok_or(Reason::Overflow)?;
            decimals += 1;
        }
        Ok(Quantity(mantissa))
    }
}

impl Amount {
    /// The amount for showing: in units of an item with that many decimals, or as it was sent where
    /// the item cannot express it; with the decimals of what is given.
    pub(crate) fn shown(self, item_decimals: u8) -> (Quantity, u8) {
        match self.to_units(item_decimals) {
            Some(units) => (units, item_decimals),
            None => (Quantity(self.mantissa), self.decimals),
        }
    }

    /// As [`Amount::shown`], and next to it a quantity of that item with the same decimals: rounded
    /// down where those are fewer than the item's, which they are only for what is too large for it.
    pub(crate) fn shown_beside(
        self,
        quantity: Quantity,
        item_decimals: u8,
    ) -> (Quantity, Quantity, u8) {
        let (shown, decimals) = self.shown(item_decimals);
        let beside = Self {
            mantissa: quantity.0,
            decimals: item_decimals,
        };
        let beside = match item_decimals.checked_sub(decimals) {
            Some(fewer) => Quantity(quantity.0.div_euclid(10i64.pow(fewer.into()))),
            // What does not fit when it is written finer is more than anybody asks for.
            None => beside.to_units(decimals).unwrap_or(Quantity(i64::MAX)),
        };
        (shown, beside, decimals)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub struct $name<'a>(#[serde(borrow)] pub Cow<'a, str>);

        impl<'a> $name<'a> {
            /// The text as it was sent.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same name, owned.
            pub fn into_owned(self) -> $name<'static> {
                $name(Cow::Owned(self.0.into_owned()))
            }

            /// The same name, owned, from a borrow.
            pub fn to_static(&self) -> $name<'static> {
                $name(Cow::Owned(self.0.as_ref().to_owned()))
            }
        }

        impl<'a> From<&'a str> for $name<'a> {
            fn from(s: &'a str) -> Self {
                Self(Cow::Borrowed(s))
            }
        }

        impl From<String> for $name<'_> {
            fn from(s: String) -> Self {
                Self(Cow::Owned(s))
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// The thing stocked. 1 to 255 bytes, compared byte for byte.
    Sku
);
name!(
    /// A place that holds stock. 1 to 255 bytes, compared byte for byte.
    Location
);
name!(
    /// The system that reports or asks. With the [`Id`] it names a command at its key.
    Source
);
name!(
    /// The sender's own name of a command. 1 to 255 bytes.
    Id
);
name!(
    /// The name of a reservation; its owner is the partition of this name. 1 to 512 bytes.
    ReservationId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_shown_as_its_item_writes_it_or_as_it_was_sent() {
        let amount = |mantissa, decimals| Amount { mantissa, decimals };
        for (sent, item, shown) in [
            (amount(1, 0), 2, (100, 2)),
            (amount(150, 2), 1, (15, 1)),
            (amount(15, 1), 0, (15, 1)),
            (amount(i64::MAX, 0), 2, (i64::MAX, 0)),
        ] {
            assert_eq!(sent.shown(item), (Quantity(shown.0), shown.1), "{sent:?}");
        }
    }

    #[test]
    fn what_is_shown_beside_it_has_the_same_decimals() {
        let amount = |mantissa, decimals| Amount { mantissa, decimals };
        for (sent, beside, item, shown) in [
            (amount(1, 0), 250, 2, (100, 250, 2)),
            (amount(1_234, 3), 250, 2, (1_234, 2_500, 3)),
            (amount(15, 1), 3, 0, (15, 30, 1)),
            // Too large for the item: rounded down.
            (amount(i64::MAX, 0), 299, 2, (i64::MAX, 2, 0)),
            (amount(1_234, 3), i64::MAX, 2, (1_234, i64::MAX, 3)),
        ] {
            let (requested, beside, decimals) = sent.shown_beside(Quantity(beside), item);
            assert_eq!((requested.0, beside.0, decimals), shown, "{sent:?}");
        }
    }
}
