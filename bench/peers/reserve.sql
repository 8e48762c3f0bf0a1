-- A reservation of one unit of two SKUs, whole or not at all; see schema.sql.
\set command random(1, 9000000000000000000)
\set sku random(0, :skus - 1)
SELECT reserve(:command, 1 + :sku::integer, 1 + (:sku::integer + 5000) % 10000);
