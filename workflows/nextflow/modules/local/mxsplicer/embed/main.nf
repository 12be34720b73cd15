process MXSPLICER_EMBED {
    tag "$meta.id"
    label 'process_high'

    conda "${moduleDir}/environment.yml"
    container "ghcr.io/_OWNER_/mxsplicer:v0.1.0${task.accelerator ? '-cuda' : ''}"

    input:
    tuple val(meta), path(image), path(mask), path(markers) // [] for a mask or markers that there are not

    output:
    tuple val(meta), path("${prefix}.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}.csv") , emit: csv
    tuple val(meta), path("${prefix}.html"), emit: html
    tuple val(meta), path("${prefix}.mxs") , emit: result
    path "versions.yml"                    , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args         = task.ext.args ?: ''
    def args2        = task.ext.args2 ?: ''
    prefix           = task.ext.prefix ?: "${meta.id}"
    def mask_arg     = mask ? "--mask ${mask}" : ''
    def markers_arg  = markers ? "--markers ${markers}" : ''
    def memory_arg   = task.memory ? "--max-memory ${task.memory.toMega()}M" : ''
    def device       = task.accelerator ? 'cuda' : 'cpu'
    """
    export OMP_NUM_THREADS=${task.cpus}

    mxsplicer embed ${image} ${mask_arg} ${markers_arg} \\
        --out ${prefix}.mxs \\
        --device ${device} \\
        --workers ${task.cpus} \\
        ${memory_arg} \\
        ${args}

    mxsplicer export ${prefix}.mxs --csv ${prefix}.csv ${args2}
    ln ${prefix}.mxs/cells.h5ad ${prefix}.h5ad || cp ${prefix}.mxs/cells.h5ad ${prefix}.h5ad
    cp ${prefix}.mxs/report.html ${prefix}.html

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        mxsplicer: \$(mxsplicer --version | sed 's/mxsplicer //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}.mxs
    touch ${prefix}.h5ad ${prefix}.csv ${prefix}.html ${prefix}.mxs/mxsplicer.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        mxsplicer: \$(mxsplicer --version | sed 's/mxsplicer //')
    END_VERSIONS
    """
}
