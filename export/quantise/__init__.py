"""Fewer bits for the products with weights, decided in torch before the graph is traced, and written into it after.

    scheme       what a precision computes in, and for which target
    calibration  ranges of activations, taken of images one by one (`histogram`)
    products     which Linears there are, watched, or computed as the graph will compute them (`arithmetic`)
    plan         all of it together: what is quantised, and what stays float
    write        into the graph

Everything between these products stays float: softmax, norms, attention's own products, and what scores. `scheme` alone
needs no torch, so that nothing is imported here.
"""
