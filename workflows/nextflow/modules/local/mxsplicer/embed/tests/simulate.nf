// A small slide with its mask and markers, so that the tests need no network.
process SIMULATE {
    conda "${moduleDir}/../environment.yml"
    container "ghcr.io/_OWNER_/mxsplicer:v0.1.0"

    input:
    val(meta)

    output:
    tuple val(meta), path("slide.ome.tiff"), path("slide_mask.ome.tiff"), path("markers.csv"), emit: slide

    script:
    """
    mxsplicer simulate --out slide.ome.tiff --size-px 384
    echo marker_name > markers.csv
    mxsplicer info slide.ome.tiff --json | python -c 'import json, sys; print(*json.load(sys.stdin)["markers"], sep="\\n")' >> markers.csv
    """

    stub:
    """
    touch slide.ome.tiff slide_mask.ome.tiff markers.csv
    """
}
