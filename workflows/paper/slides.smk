# Files of the data folder become <table>/<slide>.ome.tiff, <slide>_mask.ome.tiff and <slide>_labels.csv.


def files(table):
    """Return the files of every slide of a table."""
    settings = TABLES.get(table, {})
    names = dict.fromkeys([*settings.get("slides", []), *settings.get("scored", [])])
    return expand(
        [str(OUT / table / "{slide}") + end for end in (".ome.tiff", "_mask.ome.tiff", "_labels.csv")], slide=names
    )


def setting(table, key):
    return TABLES.get(table, {}).get(key, "")


rule simulated_slides:
    wildcard_constraints:
        table="|".join([name for name in TABLES if "simulate" in TABLES[name]] or ["none"]),
    output:
        OUT / "{table}/seed{seed}.ome.tiff",
        OUT / "{table}/seed{seed}_mask.ome.tiff",
        OUT / "{table}/seed{seed}_labels.csv",
    params:
        of("simulate"),
    shell:
        "mxsplicer simulate --out {output[0]} --seed {wildcards.seed} {params} --overwrite"
        " && mv {OUT}/{wildcards.table}/seed{wildcards.seed}_truth.csv {output[2]}"


for name in TABLES:
    if "mnist" in TABLES[name]:

        rule:
            name:
                f"{name}_slides"
            input:
                DATA / setting(name, "mnist"),
                DATA / setting(name, "cifar"),
            output:
                files(name),
            params:
                folder=OUT / name,
                make=setting(name, "make"),
            shell:
                "python {HERE}/datasets/mnist_cifar.py {input} {params.folder} {params.make}"


# Loaders of one folder or file: `source` is its path, `loader` the script, `make` further options.
for name in TABLES:
    if "loader" in TABLES[name]:

        rule:
            name:
                f"{name}_slides"
            input:
                DATA / setting(name, "source"),
            output:
                files(name),
            params:
                script=HERE / "datasets" / f"{setting(name, 'loader')}.py",
                folder=OUT / name,
                make=setting(name, "make"),
            shell:
                "python {params.script} {input} {params.folder} {params.make}"


if "segmentation" in TABLES:

    rule segmentation_slides:
        input:
            OUT / "tissue" / f"{setting('segmentation', 'of')}.ome.tiff",
        output:
            files("segmentation"),
        shell:
            "python {HERE}/datasets/degrade.py {input} {OUT}/segmentation"
